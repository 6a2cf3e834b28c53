"""Batch norms that get a single value per channel, whose variance is 0, from a batch of one image."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from mnet.errors import ConfigError
from mnet.models.network import create_model
from mnet.models.spec import Network


def check_batch_of_one(network: Network, resolution: int) -> None:
    """Refuse to train on batches of one image if that cannot work. Nothing is computed.

    Raises:
        ConfigError: A batch norm would get one value per channel.
    """
    layer = find_single_value(network, resolution)
    if layer is not None:
        raise ConfigError(
            f"batch_size is 1 per device, and at resolution {resolution} the batch norm of {layer} then has one value "
            "per channel, which it cannot normalise in training; use batch_size=2 or more."
        )


@cache
def find_single_value(network: Network, resolution: int) -> str | None:
    """The first layer whose batch norm gets one value per channel from a single image; None if there is none."""
    found: list[str] = []
    with torch.device("meta"):
        net, image = create_model(network).train(), torch.empty(1, network.in_channels, resolution, resolution)

    def watch(name: str, norm: nn.BatchNorm2d) -> None:
        def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                found.append(name)
                norm.eval()  # torch raises otherwise

        norm.register_forward_pre_hook(look)

    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            watch(name.removesuffix(".norm"), module)
    net(image)
    return found[0] if found else None
