"""The parts of a network (stem, blocks, tail and head): the layers of each, what they cost, and each as a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from mnet.errors import ConfigError
from mnet.models.cost import Cost, LayerCost, cost
from mnet.models.network import MobileNet
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network

HEAD = "head"


def part_name(layer: str) -> str:
    """The part that a layer belongs to: `blocks.3.se.fc1` -> `blocks.3`, `classifier` -> `head`."""
    first, *rest = layer.split(".")
    return f"{first}.{rest[0]}" if first == "blocks" else HEAD if first in ("hidden", "classifier") else first


def _layers_by_part(network_cost: Cost) -> dict[str, list[LayerCost]]:
    """Part -> its layers, in the order of execution."""
    layers: dict[str, list[LayerCost]] = {}
    for layer in network_cost.rows:
        layers.setdefault(part_name(layer.layer), []).append(layer)
    return layers


def part_kinds(network: Network) -> dict[str, str]:
    """Part -> what it is made of, e.g. `5x5 hswish se`."""
    kinds = {"stem": f"{network.stem.kernel}x{network.stem.kernel} {network.stem.activation}"}
    for i, block in enumerate(resolve_blocks(network)):
        row = block.row
        words = ["" if row.form == "ib" else row.form, row.sizes, row.activation, "se" if block.squeeze else ""]
        kinds[f"blocks.{i}"] = " ".join(filter(None, words))
    if network.tail is not None:
        kinds["tail"] = f"1x1 {network.tail.activation}"
    if network.head is not None:
        kinds[HEAD] = network.head.kind
    else:
        kinds[HEAD] = f"pool, hidden {network.hidden.activation}" if network.hidden else "pool"
    return kinds


def part_costs(network: Network, resolution: int) -> pd.DataFrame:
    """One row per part: `block, kind, resolution` (of its output, in pixels), `in_channels, out_channels, madds,
    params`."""
    kinds = part_kinds(network)
    return pd.DataFrame(
        [_row(part, kinds[part], layers) for part, layers in _layers_by_part(cost(network, resolution)).items()]
    )


def _row(block: str, kind: str, layers: Sequence[LayerCost]) -> dict[str, object]:
    return {
        "block": block,
        "kind": kind,
        "resolution": layers[-1].resolution,
        "in_channels": layers[0].in_channels,
        "out_channels": layers[-1].out_channels,
        "madds": sum(layer.madds for layer in layers),
        "params": sum(layer.params for layer in layers),
    }


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a network between two feature maps, as a module."""

    block: str
    """stem, blocks.0 .., tail or head."""
    kind: str
    """As in `part_kinds`."""
    module: nn.Module
    example: Tensor
    """Its input in the network, (N, C, H, W)."""
    layers: tuple[LayerCost, ...]

    def row(self) -> dict[str, object]:
        """Its row in `part_costs`."""
        return _row(self.block, self.kind, self.layers)


class ClassifierHead(nn.Module):
    """From the last feature map to the scores: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, net: MobileNet) -> None:
        super().__init__()
        self.hidden, self.classifier = net.hidden, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.hidden(x.mean((2, 3), keepdim=True)).flatten(1))


def example_images(net: MobileNet, resolution: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Random images (batch, in_channels, resolution, resolution).

    Raises:
        ConfigError: Not a float network of this family.
    """
    _check_family(net)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, net.network.in_channels, resolution, resolution, generator=generator)


def _check_family(net: object) -> None:
    if not isinstance(net, MobileNet):
        raise ConfigError(f"only a MobileNet in float can be cut into blocks, not a {type(net).__name__}")


def cut(net: MobileNet, images: Tensor) -> Iterator[Part]:
    """The parts of a classifier in the order of execution, each with its input in the network.

    Args:
        net: The network; it is put in eval mode.
        images: (N, C, H, W), square.

    Raises:
        ConfigError: Not a float classifier of this family.
    """
    _check_family(net)
    if net.network.head is not None:
        raise ConfigError(f"only a classifier can be cut into blocks: {net.network.head.kind} uses several maps")
    net.eval()
    modules = {"stem": net.stem, **{f"blocks.{i}": block for i, block in enumerate(net.blocks)}}
    if net.network.tail is not None:
        modules["tail"] = net.tail
    modules[HEAD] = ClassifierHead(net).eval()
    layers, kinds = _layers_by_part(cost(net, images.shape[-1])), part_kinds(net.network)
    x = images
    for name, module in modules.items():
        yield Part(block=name, kind=kinds[name], module=module, example=x, layers=tuple(layers[name]))
        with torch.no_grad():
            x = module(x)
