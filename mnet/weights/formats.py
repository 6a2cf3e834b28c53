"""Weights in and out of other layouts: torchvision's for V2 and V3, timm's for V1 (torchvision has none).

With a head, torchvision's SSDLite and LR-ASPP, which it has on V3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mnet.errors import ConfigError
from mnet.models.heads import head_spec
from mnet.models.network import MobileNet
from mnet.models.spec import HeadKind, Network, feature_map, resolve_blocks
from mnet.models.toggles import describe

Names = Iterator[tuple[str, str]]
"""Pairs (our module's name, theirs) over all modules that own tensors, in the order of execution."""


def to_torchvision(net: MobileNet) -> dict[str, Tensor]:
    """The state dict of `net` under torchvision's names (timm's for V1), in their order; tensors are shared.

    Raises:
        ConfigError: The layout has no place for a part of this network (e.g. SE in V2).
    """
    state = net.state_dict()
    return {theirs: state[ours] for ours, theirs in names(net.network, state).items()}


def load_torchvision(net: MobileNet, state_dict: Mapping[str, Tensor]) -> MobileNet:
    """Copy weights in torchvision's layout (timm's for V1) into `net`, and return it.

    Raises:
        ConfigError: Names or shapes differ; `net` is left as it was. Where the shapes are those of the other
            width rule, the message says so.
    """
    state = net.state_dict()
    renamed = names(net.network, state)
    missing, unexpected = (
        sorted(set(renamed.values()) - set(state_dict)),
        sorted(set(state_dict) - set(renamed.values())),
    )
    if missing or unexpected:
        shown = [
            f"{what} {keys[0]} and {len(keys) - 1} more"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise ConfigError(f"these weights are of another network than {net.network.name}: {'; '.join(shown)}")
    wrong = [theirs for ours, theirs in renamed.items() if state[ours].shape != state_dict[theirs].shape]
    if wrong:
        other = other_rule(net.network, {key: state_dict[key].shape for key in wrong})
        hint = f" They follow width_rule='{other}', this network does not." if other else ""
        if not other and net.network.head is not None and net.network.head.boxes[:1] == (3,):
            hint = " torchvision has 6 default boxes a place on C4, this network 3: lowest_boxes=6 is its own."
        theirs, ours = wrong[0], next(ours for ours, theirs in renamed.items() if theirs == wrong[0])
        shapes = f"{tuple(state_dict[theirs].shape)}, here {tuple(state[ours].shape)}"
        raise ConfigError(f"{len(wrong)} tensors have other shapes; the first, {theirs}, is {shapes}.{hint}")
    net.load_state_dict({ours: state_dict[theirs] for ours, theirs in renamed.items()})
    return net


def names(network: Network, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Our tensor name -> theirs, for all tensors of `state`."""
    if not network.separable:
        raise ConfigError("no published layout has full convolutions instead of separable ones")
    prefixes = LAYOUTS[network.name](network)
    if network.head is not None:
        if network.head.kind not in HEAD_LAYOUTS or network.name not in ON_V3:
            raise ConfigError(f"torchvision's layouts have no {network.head.kind} on {network.name}")
        backbone = (one for one in prefixes if not one[0].startswith(("hidden", "classifier")))
        prefixes = HEAD_LAYOUTS[network.head.kind](network, backbone)
    return {
        f"{ours}.{tensor.removeprefix(f'{ours}.')}": f"{theirs}.{tensor.removeprefix(f'{ours}.')}"
        for ours, theirs in prefixes
        for tensor in state
        if tensor.rpartition(".")[0] == ours
    }


def other_rule(network: Network, shapes: Mapping[str, torch.Size]) -> str | None:
    """The width rule under which these tensors would have fitted, if it is not the network's own."""
    other = "torchvision" if network.width_rule == "paper" else "paper"
    with torch.device("meta"):
        twin = MobileNet(
            describe(
                network.name,
                num_classes=network.num_classes,
                in_channels=network.in_channels,
                width=network.width,
                width_rule=other,
                reduced_tail=network.reduced_tail,
                head=network.head and network.head.kind,
                lowest_boxes=network.head.boxes[0] if network.head and network.head.boxes else None,
            )
        )
    expected = to_torchvision(twin)
    return other if all(key in expected and expected[key].shape == shape for key, shape in shapes.items()) else None


def pair(ours: str, theirs: str) -> Names:
    """A convolution and its batch norm in torchvision's Conv2dNormActivation."""
    yield f"{ours}.conv", f"{theirs}.0"
    yield f"{ours}.norm", f"{theirs}.1"


def torchvision_v2(network: Network) -> Names:
    if network.hidden is not None or network.tail is None or any(row.se for row in network.blocks):
        raise ConfigError("torchvision's V2 layout has no SE and no streamlined last stage")
    yield from pair("stem", "features.0")
    for i, row in enumerate(network.blocks):
        ours, theirs, step = f"blocks.{i}", f"features.{i + 1}.conv", 0
        if row.expansion is not None:
            yield from pair(f"{ours}.expand", f"{theirs}.0")
            step = 1
        yield from pair(f"{ours}.depthwise", f"{theirs}.{step}")
        yield f"{ours}.project.conv", f"{theirs}.{step + 1}"
        yield f"{ours}.project.norm", f"{theirs}.{step + 2}"
    yield from pair("tail", f"features.{len(network.blocks) + 1}")
    yield "classifier", "classifier.1"


def torchvision_v3(network: Network) -> Names:
    if network.hidden is None:
        raise ConfigError("torchvision's V3 layout has the streamlined last stage only")
    yield from pair("stem", "features.0")
    for i, placed in enumerate(resolve_blocks(network)):
        parts = [
            part
            for part, there in (
                ("expand", placed.row.expansion),
                ("depthwise", 1),
                ("se", placed.squeeze),
                ("project", 1),
            )
            if there
        ]
        for step, part in enumerate(parts):
            ours, theirs = f"blocks.{i}.{part}", f"features.{i + 1}.block.{step}"
            if part == "se":
                yield f"{ours}.fc1", f"{theirs}.fc1"
                yield f"{ours}.fc2", f"{theirs}.fc2"
            else:
                yield from pair(ours, theirs)
    yield from pair("tail", f"features.{len(network.blocks) + 1}")
    yield "hidden.0", "classifier.0"
    yield "classifier", "classifier.3"


def timm_v1(network: Network) -> Names:
    if any(row.se for row in network.blocks):
        raise ConfigError("timm's V1 layout has no SE")
    yield "stem.conv", "conv_stem"
    yield "stem.norm", "bn1"
    stage, index = 0, 0
    for i, row in enumerate(network.blocks):
        if i and row.out_channels != network.blocks[i - 1].out_channels:
            stage, index = stage + 1, 0
        ours, theirs = f"blocks.{i}", f"blocks.{stage}.{index}"
        yield f"{ours}.depthwise.conv", f"{theirs}.conv_dw"
        yield f"{ours}.depthwise.norm", f"{theirs}.bn1"
        yield f"{ours}.project.conv", f"{theirs}.conv_pw"
        yield f"{ours}.project.norm", f"{theirs}.bn2"
        index += 1
    yield "classifier", "classifier"


def torchvision_ssdlite(network: Network, backbone: Names) -> Names:
    """torchvision cuts the backbone after C4, which is inside a block."""
    cut = feature_map(network, "C4").block + 1
    for ours, theirs in backbone:
        _, index, *inner = theirs.split(".")
        layer = int(index)
        before = layer < cut or (layer == cut and inner[1] == "0")
        if layer == cut:  # the block itself is taken apart, and its expansion is a layer of its own
            inner = inner[2 if before else 1 :]
        yield ours, ".".join(["backbone.features", *(["0", index] if before else ["1", str(layer - cut)]), *inner])
    for i in range(len(head_spec(network).filters)):
        for step in range(3):
            yield from pair(f"head.extra.{i}.{step}", f"backbone.extra.{i}.{step}")
    for ours, theirs in (("scores", "classification_head"), ("places", "regression_head")):
        for i in range(len(head_spec(network).boxes)):
            yield from pair(f"head.{ours}.{i}.0", f"head.{theirs}.module_list.{i}.0")
            yield f"head.{ours}.{i}.1", f"head.{theirs}.module_list.{i}.1"


def torchvision_lraspp(network: Network, backbone: Names) -> Names:
    for ours, theirs in backbone:
        yield ours, theirs.replace("features", "backbone", 1)
    yield from pair("head.branch", "classifier.cbr")
    yield "head.gate", "classifier.scale.1"
    yield "head.low", "classifier.low_classifier"
    yield "head.high", "classifier.high_classifier"


ON_V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
HEAD_LAYOUTS: dict[HeadKind, Callable[[Network, Names], Names]] = {
    "ssdlite": torchvision_ssdlite,
    "lr_aspp": torchvision_lraspp,
}
LAYOUTS: dict[str, Callable[[Network], Names]] = {
    "mobilenet_v1": timm_v1,
    "mobilenet_v2": torchvision_v2,
    "mobilenet_v3_large": torchvision_v3,
    "mobilenet_v3_small": torchvision_v3,
}
