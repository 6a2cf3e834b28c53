"""Start a network from weights in any known layout, and report what was recognised and what fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mnet.errors import ConfigError, path_text
from mnet.files import load_yaml
from mnet.models.network import MobileNet
from mnet.models.spec import Network
from mnet.models.tables import table
from mnet.models.toggles import Toggles, describe, with_toggles
from mnet.settings import hints, parse
from mnet.weights.files import STEMS, State, read_state
from mnet.weights.formats import load_named, torchvision_names
from mnet.weights.recognise import recognise, renamed
from mnet.weights.transfer import (
    IMAGENET,
    RUN_CONFIG,
    RUN_NETWORK,
    RUN_WEIGHTS,
    TransferReport,
    download,
    transfer_published,
    transfer_trained,
)


def load_weights(net: MobileNet, source: Mapping[str, Any] | str | Path, model: str | None = None) -> TransferReport:
    """Copy into `net` the weights that fit, and report what they are and what fits.

    No code in a file is run. Prefixes of DataParallel, DDP, torch.compile and Lightning are removed, averaged weights
    preferred (choose others by `FILE#ENTRY`), half precision widened. If the number of classes differs, everything is
    kept except the classifier, or a head's layers with a channel per class. If toggles differ, everything that they do
    not change is kept.

    Args:
        net: The network, with any toggles, at the width of the weights.
        source: A state dict; a .pt, .pth, .ckpt or .safetensors file of torchvision, timm, Lightning or mnet, or of a
            training script with such a network; the folder of a finished run; or `imagenet`, torchvision's download.
        model: The file of the network before its toggles, if it is one of your own.

    Raises:
        ConfigError: There are no such weights, or they belong to another network; the message names the tensors that
            differ and what the weights look like. `net` is unchanged.
    """
    if not isinstance(source, Mapping):  # str() of a mapping would format all its numbers
        if str(source) == IMAGENET:
            source = download(net.network.name)
        elif Path(source).expanduser().is_dir():
            return load_run(net, Path(source).expanduser())
    state = read_state(source)
    if net.network.head is not None:
        return _load_with_head(net, state)
    found = recognise(state.tensors, net.network, None if model is None else table(model))
    if (found.network.name, found.network.width) != (net.network.name, net.network.width):
        given = f"model={found.network.name} width={found.network.width:g}"
        raise ConfigError(
            f"these weights do not fit {net.network.name} at width {net.network.width:g}: they belong to {found.name}; "
            f"give {given}"
        )
    classes = found.classes
    if found.has_classifier and found.network.num_classes != net.network.num_classes:
        classes += f" → {net.network.num_classes:,}"
    summary = ", ".join([found.name, *state.notes, classes])
    if net.network.torchvision_rounds and found.network.width_rule != net.network.width_rule and net.network.width != 1:
        summary += f"; width_rule={found.network.width_rule} fits them better"
    return replace(transfer_published(net, found.network, renamed(found, state.tensors)), source=summary)


def open_weights(source: Mapping[str, Any] | str | Path, model: str = "mobilenet_v3_large") -> tuple[MobileNet, str]:
    """The published classifier that weights belong to, with these weights, and what was recognised.

    Args:
        source: As in `load_weights`, except folders and `imagenet`.
        model: Tried first, if several models have the same names and shapes.

    Raises:
        ConfigError: As in `load_weights`, or the weights have no classifier.
    """
    state = read_state(source)
    found = recognise(state.tensors, describe(model))
    summary = ", ".join([found.name, *state.notes, found.classes])
    if not found.has_classifier:
        raise ConfigError(
            f"these weights belong to {summary}: they can start a training (pretrained=), but not classify images"
        )
    net = MobileNet(found.network)
    net.load_state_dict({**net.state_dict(), **renamed(found, state.tensors)})
    return net.eval(), summary


def load_run(net: MobileNet, folder: Path, network: Network | None = None) -> TransferReport:
    """Copy into `net` the weights of a finished run that fit.

    Args:
        net: As in `load_weights`.
        folder: The run's folder.
        network: The network that was trained; None = the one in the run's config.

    Raises:
        ConfigError: The folder is not that of a finished run, or its network has a head or int8 weights.
    """
    if not (folder / RUN_WEIGHTS).is_file() or not (folder / RUN_CONFIG).is_file():
        raise ConfigError(
            f"{path_text(folder)} is not the folder of a finished run: {RUN_WEIGHTS} or {RUN_CONFIG} is missing"
        )
    state = read_state(folder / RUN_WEIGHTS)
    source = MobileNet(_network_of(folder, state.tensors) if network is None else network)
    source.load_state_dict(dict(state.tensors))
    return replace(transfer_trained(net, source), source=f"run {folder.name} of {source.network.name}")


def _network_of(folder: Path, tensors: Mapping[str, Tensor]) -> Network:
    config = load_yaml(folder / RUN_CONFIG)
    toggles = parse(Toggles, {name: config[name] for name in hints(Toggles) if name in config}, "toggle")
    if toggles.head is not None or "classifier.bias" not in tensors:
        raise ConfigError(
            f"{path_text(folder)} has a network with head={toggles.head}; a run can start from a classifier"
        )
    saved = folder / RUN_NETWORK
    paper = table(str(saved) if saved.is_file() else str(config["model"]))
    return with_toggles(paper, toggles, len(tensors["classifier.bias"]), tensors["stem.conv.weight"].shape[1])


CLASS_LAYERS = ("head.scores", "head.low", "head.high")
"""Layers of detectors and segmenters with channels per class."""


def _load_with_head(net: MobileNet, state: State) -> TransferReport:
    """Load weights of the same detector or segmenter, in mnet's layout or torchvision's."""
    current, given = net.state_dict(), state.tensors
    is_mnets = STEMS[0] in given
    names = {name: name for name in current} if is_mnets else torchvision_names(net.network, current)
    new = [name for name, key in names.items() if name.startswith(CLASS_LAYERS) and key in given
           and current[name].shape != given[key].shape and current[name].shape[1:] == given[key].shape[1:]]  # fmt: skip
    load_named(net, {**given, **{names[name]: current[name] for name in new}}, names)
    sizes = {name: param.numel() for name, param in net.named_parameters()}
    kept = sum(size for name, size in sizes.items() if name not in new)
    network = (
        f"{'mnet' if is_mnets else 'torchvision'} {net.network.head and net.network.head.kind} on {net.network.name}"
    )
    classes = ["other classes"] if new else []
    layers = Counter(".".join(name.split(".")[:2]) for name in new)
    return TransferReport(sum(sizes.values()), kept, {}, dict(layers), ", ".join([network, *state.notes, *classes]))
