"""int8: fold batch norms, observe ranges on training images, round weights and activations to 8 bits.

    fuse -> prepare (export, insert observers, calibrate) -> [continue training with simulated rounding] -> convert

The result is a graph that computes in float what an int8 kernel computes, so its accuracy can be measured anywhere.
A runtime turns it into an int8 program by exporting it again.
"""

from __future__ import annotations

import copy
import logging
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnet.errors import ConfigError, path_text
from mnet.files import write_torch
from mnet.models.layers import ConvNormAct
from mnet.models.network import MobileNet
from mnet.quantization.stored import build_graph, describe_graph

Images = Tensor | Iterable[Tensor]
"""(N, C, H, W), or batches of them."""

CALIBRATION_BATCH = 64

SOURCE = "mnet_source"
"""Key in the `meta` of a graph from `quantize`: (float network, images), for runtimes that quantise by themselves."""

aten = torch.ops.aten

_OUT_OF_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.silu_.default: aten.silu.default,
}
"""In-place activation -> the same one out of place, which keeps its input for the gradient and for other readers."""


def fuse(net: MobileNet) -> MobileNet:
    """A copy in eval mode with every batch norm folded into its convolution; equal up to rounding."""
    fused = copy.deepcopy(net).eval()
    for layer in fused.modules():
        if isinstance(layer, ConvNormAct) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.add_module("norm", nn.Identity())
    return fused


def quantize(net: MobileNet, images: Images) -> nn.Module:
    """Post-training int8: weights per channel, activations per tensor, with the ranges observed on `images`.

    Args:
        net: In float; unchanged.
        images: A few hundred training images for the calibration, normalised as for training.

    Returns:
        A module on the CPU, always in eval mode, for any batch size at the resolution of the images.

    Raises:
        ConfigError: torchao or executorch is not installed, or there are no images.
    """
    batch = _concatenate(images)
    converted = convert(prepare(net, batch))
    converted.meta[SOURCE] = net, batch
    return converted


def prepare(net: MobileNet, images: Images, *, training: bool = False) -> GraphModule:
    """The fused network as a calibrated graph with observers.

    Args:
        net: In float; unchanged.
        images: As for `quantize`.
        training: Prepare for further training, with simulated rounding and straight-through gradients. Batch norms are
            folded, and so frozen ("static folding", Nagel et al. 2021, arXiv 2106.08295).

    Raises:
        ConfigError: As `quantize`.
    """
    check_installed()
    from torchao.quantization.pt2e import disable_fake_quant, enable_fake_quant
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

    from mnet.quantization.quantizer import Int8Quantizer

    batch = _concatenate(images).cpu()
    graph = _export(fuse(net).cpu(), batch)
    prepared: GraphModule = (prepare_qat_pt2e if training else prepare_pt2e)(graph, Int8Quantizer(training=training))
    prepared.apply(disable_fake_quant)
    with torch.no_grad():
        for part in batch.split(CALIBRATION_BATCH):
            prepared(part)
    prepared.apply(enable_fake_quant)
    return _accept_modes(prepared)


def _concatenate(images: Images) -> Tensor:
    """The images as one batch (N, C, H, W).

    Raises:
        ConfigError: There are none.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    if not sum(map(len, batches)):
        raise ConfigError("no images to calibrate on; give a few hundred of the training split")
    return torch.cat(batches)


def _export(net: MobileNet, images: Tensor) -> GraphModule:
    """The operators of a network for images of this size and any batch size; without in-place operators and dropout."""
    net.add_module("dropout", nn.Identity())
    example = torch.zeros(2, *images.shape[1:])  # a batch size of 1 would become a constant
    program = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    graph = program.module()
    assert isinstance(graph, GraphModule)
    for node in graph.graph.nodes:
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
    graph.recompile()
    return graph


def set_observing(prepared: nn.Module, on: bool) -> None:
    """Set whether a network prepared for training still updates its ranges."""
    from torchao.quantization.pt2e import disable_observer, enable_observer

    prepared.apply(enable_observer if on else disable_observer)


def convert(prepared: GraphModule) -> GraphModule:
    """The int8 graph of a graph from `prepare`, on the CPU; `prepared` cannot be used afterwards."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted: GraphModule = convert_pt2e(prepared.cpu())
    return _accept_modes(GraphModule(converted, converted.graph))  # without the float weights


def _accept_modes(graph: GraphModule) -> GraphModule:
    """Let an exported graph accept `train()` and `eval()`, which it refuses by default; they do not change it."""
    for name in ("train", "eval"):
        setattr(graph, name, MethodType(getattr(nn.Module, name), graph))
    return graph


def save(converted: nn.Module, path: Path) -> None:
    """Write an int8 graph, with 8-bit weights, to a file for `load`.

    Args:
        converted: From `quantize` or `convert`.
        path: The file to write.
    """
    assert isinstance(converted, GraphModule)
    write_torch(path, describe_graph(converted))


def load(path: Path) -> nn.Module:
    """The int8 network in a file from `save`, e.g. the `weights.pt` of a run with precision=int8. Runs no code in it.

    Raises:
        ConfigError: torchao is not installed, or the file holds something else, e.g. float weights, or a graph that an
            earlier version of mnet wrote.
    """
    check_installed()
    try:
        network = build_graph(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many types for other files, and recommends running their code
        reason = path_text(str(error))[:200] if isinstance(error, ValueError) else "it holds something else"
        if _is_exported_program(path):
            reason = "an earlier mnet wrote it, in a format that can run code. Delete the run's folder and run it again"
        raise ConfigError(f"{path_text(path)} is not the int8 network of a run with precision=int8: {reason}") from None
    return _accept_modes(network)


def _is_exported_program(path: Path) -> bool:
    """Whether `torch.export.save` wrote the file."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/archive_format") for name in archive.namelist())
    return False


def check_installed() -> None:
    """
    Raises:
        ConfigError: torchao or executorch is not installed.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao causes warnings on import
    try:
        import mnet.quantization.quantizer  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"int8 needs torchao and executorch ({error}): pip install 'mnet[executorch]'") from None
