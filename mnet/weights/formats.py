"""Weights in other libraries' layouts: torchvision's for V2 and V3 (timm's for V1 and V4, which torchvision lacks), and
timm's. A user's own network gets the names of the published one with the same kind of last stage.

Networks with a head use the layouts of torchvision's SSDLite and LR-ASPP, which exist on V3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mnet.errors import ConfigError
from mnet.models.feature_maps import feature_map
from mnet.models.heads import head_spec
from mnet.models.network import MobileNet
from mnet.models.resolved import ResolvedBlock, resolve_blocks
from mnet.models.spec import Block, HeadKind, Network, Part
from mnet.models.tables import MODELS
from mnet.models.toggles import describe

NamePairs = Iterator[tuple[str, str]]
"""(module name in mnet, module name in the layout) of all modules with tensors, in the order of execution."""


def to_torchvision(net: MobileNet) -> dict[str, Tensor]:
    """The state dict of `net` under torchvision's names (timm's for V1 and V4), in their order; tensors are shared.

    Raises:
        ConfigError: The layout cannot hold a part of this network (e.g. SE in V2).
    """
    state = net.state_dict()
    return {layout_name: state[name] for name, layout_name in torchvision_names(net.network, state).items()}


def to_timm(net: MobileNet) -> dict[str, Tensor]:
    """The state dict of `net` under timm's names, in their order; tensors are shared.

    timm's `mobilenetv1_100`, `mobilenetv2_*`, `mobilenetv3_*` and `mobilenetv4_conv_*` accept it at the same width.
    Their batch norms have an epsilon of 1e-5, even in V3, where the paper's code, torchvision and `tf_mobilenetv3_*`
    have 1e-3.

    Raises:
        ConfigError: The layout cannot hold a part of this network.
    """
    state = net.state_dict()
    names = timm_names(net.network, state)
    return {key: state[name][..., None, None] if key == CONV_HEAD and state[name].ndim == 2 else state[name]
            for name, key in names.items()}  # fmt: skip


CONV_HEAD = "conv_head.weight"
"""timm's last 1x1 convolution. In mnet, V3's is a fully connected layer; V2's and V4's are 1x1 convolutions too."""


def load_torchvision(net: MobileNet, state_dict: Mapping[str, Tensor]) -> MobileNet:
    """Copy weights in torchvision's layout (timm's for V1 and V4) into `net`, and return it.

    Raises:
        ConfigError: Names or shapes differ; `net` is unchanged. If the shapes fit the other width rule, the message
            says so.
    """
    return load_named(net, state_dict, torchvision_names(net.network, net.state_dict()))


def load_named(net: MobileNet, state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> MobileNet:
    """Copy weights with other tensor names into `net`, and return it.

    Args:
        net: Unchanged if names or shapes differ.
        state_dict: The weights.
        names: Tensor name in mnet -> its name in the weights.

    Raises:
        ConfigError: As in `load_torchvision`.
    """
    state = net.state_dict()
    differences = {
        "missing": sorted(set(names.values()) - set(state_dict)),
        "unexpected": sorted(set(state_dict) - set(names.values())),
    }
    if any(differences.values()):
        shown = [f"{kind} {keys[0]} and {len(keys) - 1} more" for kind, keys in differences.items() if keys]
        raise ConfigError(f"these weights do not fit {net.network.name}: {'; '.join(shown)}")
    wrong = {key: name for name, key in names.items() if state[name].shape != state_dict[key].shape}
    if wrong:
        key, name = next(iter(wrong.items()))
        shapes = f"{tuple(state_dict[key].shape)}, but in this network {tuple(state[name].shape)}"
        hint = _shape_hint(net.network, {key: state_dict[key].shape for key in wrong})
        raise ConfigError(f"{len(wrong)} tensors have different shapes; the first, {key}, is {shapes}.{hint}")
    net.load_state_dict({name: state_dict[key] for name, key in names.items()})
    return net


def torchvision_names(network: Network, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor name in mnet -> in torchvision's layout (timm's for V1 and V4), for all tensors of `state`.

    Raises:
        ConfigError: The layout cannot hold a part of this network.
    """
    pairs = _pairs(network, _torchvision)
    if network.head is not None:
        if network.head.kind not in HEAD_LAYOUTS or network.name not in ON_V3:
            raise ConfigError(f"torchvision's layouts have no {network.head.kind} on {network.name}")
        backbone = (pair for pair in pairs if not pair[0].startswith(("hidden", "classifier")))
        pairs = HEAD_LAYOUTS[network.head.kind](network, backbone)
    return _of_tensors(pairs, state)


def timm_names(network: Network, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor name in mnet -> in timm's layout, for all tensors of `state`.

    Raises:
        ConfigError: The layout cannot hold a part of this network.
    """
    if network.head is not None:
        raise ConfigError(f"timm's layouts have no {network.head.kind}")
    return _of_tensors(_pairs(network, _timm), state)


def _pairs(network: Network, layout: Callable[[Network], NamePairs]) -> NamePairs:
    """
    Raises:
        ConfigError: No layout has this network.
    """
    if not network.separable:
        raise ConfigError("no published layout has full convolutions instead of separable ones")
    return layout(network)


def in_torchvision(network: Network) -> bool:
    """Whether torchvision has such a network; for a user's own network, the last stage decides."""
    paper = MODELS.get(network.name, network)
    return paper.tail is not None and not _has_norm(paper)


def _torchvision(network: Network) -> NamePairs:
    if not in_torchvision(network):
        return _timm(network)
    form = next((row.form for row in network.blocks if row.form != "ib"), None)
    if form is not None:
        raise ConfigError(f"torchvision's layouts have no rows of the form {form}")
    paper = MODELS.get(network.name, network)
    return _torchvision_v2(network) if paper.hidden is None else _torchvision_v3(network)


def _of_tensors(pairs: NamePairs, state: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        tensor: f"{layout_name}.{tensor.removeprefix(f'{name}.')}"
        for name, layout_name in pairs
        for tensor in state
        if tensor.rpartition(".")[0] == name
    }


def _shape_hint(network: Network, shapes: Mapping[str, torch.Size]) -> str:
    """Which setting would make these shapes fit; empty if none is known."""
    if network.name not in MODELS:
        return ""
    rule = "torchvision" if network.width_rule == "paper" else "paper"
    with torch.device("meta"):
        twin = MobileNet(
            describe(
                network.name,
                num_classes=network.num_classes,
                in_channels=network.in_channels,
                width=network.width,
                width_rule=rule,
                reduced_tail=network.reduced_tail,
                head=network.head and network.head.kind,
                lowest_boxes=network.head.boxes[0] if network.head and network.head.boxes else None,
            )
        )
    expected = to_torchvision(twin)
    if all(key in expected and expected[key].shape == shape for key, shape in shapes.items()):
        return f" They follow width_rule='{rule}', this network does not."
    if network.head is not None and network.head.boxes[:1] == (3,):
        return " torchvision has 6 default boxes per position of C4, this network 3; set lowest_boxes=6."
    return ""


def _conv_norm(name: str, layout_name: str) -> NamePairs:
    """A convolution and its batch norm, as in torchvision's Conv2dNormActivation."""
    yield f"{name}.conv", f"{layout_name}.0"
    yield f"{name}.norm", f"{layout_name}.1"


def _torchvision_v2(network: Network) -> NamePairs:
    if network.hidden is not None or network.tail is None or any(row.se for row in network.blocks):
        raise ConfigError("torchvision's V2 layout has no SE and no streamlined last stage")
    yield from _conv_norm("stem", "features.0")
    for i, row in enumerate(network.blocks):
        block, layout_block, step = f"blocks.{i}", f"features.{i + 1}.conv", 0
        if row.expansion is not None:
            yield from _conv_norm(f"{block}.expand", f"{layout_block}.0")
            step = 1
        yield from _conv_norm(f"{block}.depthwise", f"{layout_block}.{step}")
        yield f"{block}.project.conv", f"{layout_block}.{step + 1}"
        yield f"{block}.project.norm", f"{layout_block}.{step + 2}"
    yield from _conv_norm("tail", f"features.{len(network.blocks) + 1}")
    yield "classifier", "classifier.1"


def _torchvision_v3(network: Network) -> NamePairs:
    if network.hidden is None:
        raise ConfigError("torchvision's V3 layout has the streamlined last stage only")
    yield from _conv_norm("stem", "features.0")
    for i, block in enumerate(resolve_blocks(network)):
        has = {"expand": block.row.expansion, "depthwise": True, "se": block.squeeze, "project": True}
        for step, part in enumerate(part for part, present in has.items() if present):
            name, layout_name = f"blocks.{i}.{part}", f"features.{i + 1}.block.{step}"
            if part == "se":
                yield f"{name}.fc1", f"{layout_name}.fc1"
                yield f"{name}.fc2", f"{layout_name}.fc2"
            else:
                yield from _conv_norm(name, layout_name)
    yield from _conv_norm("tail", f"features.{len(network.blocks) + 1}")
    yield "hidden.0", "classifier.0"
    yield "classifier", "classifier.3"


def _timm(network: Network) -> NamePairs:
    """Blocks are numbered within stages, which end where the paper's table changes its channels."""
    paper = MODELS.get(network.name, network)
    rows = network.blocks if paper.tail is None else paper.blocks  # V1 may have fewer
    if len(rows) != len(network.blocks) or (network.tail is None) != (paper.tail is None):
        raise ConfigError(f"timm's layout has the {len(rows)} blocks and the last stage of the paper's {network.name}")
    if any(row.se for row in network.blocks) > any(row.se for row in paper.blocks):
        raise ConfigError(f"timm's layout of {network.name} has no SE")
    yield "stem.conv", "conv_stem"
    yield "stem.norm", "bn1"
    stage, index, uib = 0, 0, _has_norm(network)
    for i, (block, row) in enumerate(zip(resolve_blocks(network), rows, strict=True)):
        if i and row.out_channels != rows[i - 1].out_channels:
            stage, index = stage + 1, 0
        prefix, names = f"blocks.{i}", [f"blocks.{stage}.{name}" for name in _timm_block(block, row, index, uib=uib)]
        for part, conv, norm in zip(block.kernels, names[::2], names[1::2], strict=True):
            if part == "project" and block.squeeze:
                yield f"{prefix}.se.fc1", f"blocks.{stage}.{index}.se.conv_reduce"
                yield f"{prefix}.se.fc2", f"blocks.{stage}.{index}.se.conv_expand"
            yield f"{prefix}.{part}.conv", conv
            yield f"{prefix}.{part}.norm", norm
        index += 2 if _is_pair(row) else 1
    if network.tail is not None:
        end = f"blocks.{stage + 1}.0"
        yield "tail.conv", "conv_head" if network.hidden is None else f"{end}.conv"
        yield "tail.norm", "bn2" if network.hidden is None else f"{end}.bn1"
    if uib:
        yield "hidden.conv", "conv_head"
        yield "hidden.norm", "norm_head"
    elif network.hidden is not None:
        yield "hidden.0", "conv_head"
    yield "classifier", "classifier"


def _timm_block(block: ResolvedBlock, row: Block, index: int, *, uib: bool) -> Iterator[str]:
    """timm's names, within the stage, of each convolution of a block and of its batch norm.

    Args:
        block: The network's block.
        row: The paper's row at the same position.
        index: The block's index in timm's stage.
        uib: Whether timm builds it as a universal inverted bottleneck (V4).
    """
    if _is_pair(row):
        yield from (f"{index + step}.{name}" for step in range(2) for name in ("conv", "bn1"))
    elif uib and not row.fused:
        yield from (f"{index}.{UIB[part]}.{name}" for part in block.kernels for name in ("conv", "bn"))
    elif block.row.form in ("ib", "fused"):
        convs = ("conv_pw", "conv_dw", "conv_pwl") if row.expansion is not None else ("conv_dw", "conv_pw")
        convs = ("conv_exp", "conv_pwl") if row.fused else convs
        yield from (f"{index}.{name}" for step, conv in enumerate(convs, 1) for name in (conv, f"bn{step}"))
    else:
        raise ConfigError(f"timm's layout of rows of the form {block.row.form} is V4's")


def _is_pair(row: Block) -> bool:
    """Whether timm builds a row as two convolutions (V4 Conv-S)."""
    return row.fused and row.projection is not None


UIB: Mapping[Part, str] = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid", "project": "pw_proj"}
"""Convolution -> timm's name in a universal inverted bottleneck."""


def _has_norm(network: Network) -> bool:
    return network.hidden is not None and network.hidden.norm


def _torchvision_ssdlite(network: Network, backbone: NamePairs) -> NamePairs:
    """torchvision cuts the backbone after C4, which is inside a block."""
    cut = feature_map(network, "C4").block + 1
    for name, layout_name in backbone:
        _, index, *inner = layout_name.split(".")
        layer = int(index)
        before = layer < cut or (layer == cut and inner[1] == "0")
        if layer == cut:  # this block is split, and its expansion becomes a layer
            inner = inner[2 if before else 1 :]
        yield name, ".".join(["backbone.features", *(["0", index] if before else ["1", str(layer - cut)]), *inner])
    for i in range(len(head_spec(network).filters)):
        for step in range(3):
            yield from _conv_norm(f"head.extra.{i}.{step}", f"backbone.extra.{i}.{step}")
    for name, layout_name in (("scores", "classification_head"), ("places", "regression_head")):
        for i in range(len(head_spec(network).boxes)):
            yield from _conv_norm(f"head.{name}.{i}.0", f"head.{layout_name}.module_list.{i}.0")
            yield f"head.{name}.{i}.1", f"head.{layout_name}.module_list.{i}.1"


def _torchvision_lraspp(network: Network, backbone: NamePairs) -> NamePairs:
    for name, layout_name in backbone:
        yield name, layout_name.replace("features", "backbone", 1)
    yield from _conv_norm("head.branch", "classifier.cbr")
    yield "head.gate", "classifier.scale.1"
    yield "head.low", "classifier.low_classifier"
    yield "head.high", "classifier.high_classifier"


ON_V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
HEAD_LAYOUTS: dict[HeadKind, Callable[[Network, NamePairs], NamePairs]] = {
    "ssdlite": _torchvision_ssdlite,
    "lr_aspp": _torchvision_lraspp,
}
