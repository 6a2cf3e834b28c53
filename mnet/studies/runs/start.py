"""What a run begins from: published weights, or another run."""

from __future__ import annotations

from pathlib import Path

import torch

from mnet.errors import ConfigError
from mnet.models.network import MobileNet
from mnet.studies.options import trial_from
from mnet.studies.runs.store import WEIGHTS, read_result, read_settings
from mnet.weights.transfer import TransferReport, read_weights, transfer, transfer_trained


def begin_from(pretrained: str, net: MobileNet) -> TransferReport:
    """Copy what fits of weights into a network.

    Args:
        pretrained: As `Trial.pretrained`.
        net: A classifier.

    Raises:
        ConfigError: There are no such weights, or they are of another network.
    """
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return transfer_trained(net, load_network(folder))
    return transfer(net, read_weights(pretrained, net.network.name))


def load_network(folder: Path) -> MobileNet:
    """The classifier that a finished run has trained.

    Raises:
        ConfigError: It is no such run, or its weights are not here.
    """
    if read_result(folder) is None or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder} is no finished run with its {WEIGHTS}; train it here first")
    trial = trial_from(read_settings(folder)[0])
    if trial.quantized or trial.head is not None:
        raise ConfigError(f"{folder} has no classifier that is not int8, and nothing else begins a run")
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    net = MobileNet(trial.network(len(state["classifier.bias"]), state["stem.conv.weight"].shape[1]))
    net.load_state_dict(state)
    return net
