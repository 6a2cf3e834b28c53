"""What a run starts from: published weights, or the network of another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mnet.errors import ConfigError, one_line, path_text
from mnet.models.network import MobileNet
from mnet.studies.runs.store import WEIGHTS, read_result, read_trial
from mnet.studies.trial import Trial
from mnet.weights.files import read_file
from mnet.weights.load import load_run, load_weights
from mnet.weights.transfer import TransferReport


def load_pretrained(pretrained: str, net: MobileNet, model: str) -> TransferReport:
    """Copy the weights that fit into a network.

    Args:
        pretrained: As `Trial.pretrained`.
        net: A classifier.
        model: As `Trial.model`.

    Raises:
        ConfigError: There are no such weights, or they belong to another network.
    """
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        return load_weights(net, pretrained, model)
    trial, state = read_trained(folder)
    if trial.head is not None:
        raise ConfigError(f"{folder} has a network with head={trial.head}; a run can start from a classifier only")
    return load_run(net, folder, trial.network(len(state["classifier.bias"]), state["stem.conv.weight"].shape[1]))


def read_trained(folder: Path) -> tuple[Trial, Mapping[str, Tensor]]:
    """The trial of a finished run, and the weights that it trained.

    Raises:
        ConfigError: The run is not finished, its weights are missing, or it is an int8 run.
    """
    if read_result(folder) is None or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder} is not a finished run with its {WEIGHTS}; train it here first")
    trial = read_trial(folder)
    if trial.quantized:
        raise ConfigError(f"{folder} is an {trial.precision} run; use the fp32 run that it started from")
    return trial, read_weights(folder / WEIGHTS)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a run.

    Raises:
        ConfigError: They are missing or damaged, or not a mapping of names to tensors.
    """
    state = read_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path_text(path)} does not hold the weights of a run: expected tensors by name")
    return state


def load_state(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights of a run into its network.

    Raises:
        ConfigError: They belong to another network.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{path_text(path)} holds the weights of another network: {one_line(error)}") from None
