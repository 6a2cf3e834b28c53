"""int8: batch norms folded, ranges seen on training images, weights and activations rounded to 8 bits.

    fuse -> prepare (export, observers, calibration) -> [train on, with rounding simulated] -> convert

The result is a graph that computes in float what an int8 kernel computes, so its accuracy is measured anywhere;
exported again it becomes the int8 program of a runtime.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnet.errors import ConfigError
from mnet.files import write_atomic
from mnet.models.layers import ConvNormAct
from mnet.models.network import MobileNet

Images = Tensor | Iterable[Tensor]
"""(N, C, H, W), or batches of them."""

CALIBRATION_BATCH = 64

SOURCE = "mnet_source"
"""In the `meta` of what `quantize` returns: the float network and the images, for a runtime that quantises itself."""

aten = torch.ops.aten

OUT_OF_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.silu_.default: aten.silu.default,
}
"""An in-place activation of a graph -> what leaves its input to the gradient and to whoever else reads it."""


def fuse(net: MobileNet) -> MobileNet:
    """A copy in eval mode with every batch norm folded into its convolution; the same function up to rounding."""
    fused = copy.deepcopy(net).eval()
    for layer in fused.modules():
        if isinstance(layer, ConvNormAct) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.add_module("norm", nn.Identity())
    return fused


def quantize(net: MobileNet, images: Images) -> nn.Module:
    """Post-training int8: weights per channel, activations per tensor, with ranges as seen on `images`.

    Args:
        net: In float; left as it is.
        images: To calibrate on: some hundred training images, normalised as for training.

    Returns:
        A module on the CPU, in eval mode for good, for any batch size at the images' resolution.

    Raises:
        ConfigError: torchao or executorch is not installed, or there are no images.
    """
    seen = together(images)
    converted = convert(prepare(net, seen))
    converted.meta[SOURCE] = net, seen
    return converted


def prepare(net: MobileNet, images: Images, *, training: bool = False) -> GraphModule:
    """The fused network as a graph that sees its ranges, calibrated.

    Args:
        net: In float; left as it is.
        images: As for `quantize`.
        training: Whether it is trained on: then rounding is simulated, with straight-through gradients. Batch
            norms are frozen in it, since they are folded ("static folding", Nagel et al. 2021, arXiv 2106.08295).

    Raises:
        ConfigError: As `quantize`.
    """
    require()
    from torchao.quantization.pt2e import disable_fake_quant, enable_fake_quant
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

    from mnet.quantization.quantizer import Int8Quantizer

    seen = together(images).cpu()
    graph = export(fuse(net).cpu(), seen)
    prepared: GraphModule = (prepare_qat_pt2e if training else prepare_pt2e)(graph, Int8Quantizer(training=training))
    prepared.apply(disable_fake_quant)
    with torch.no_grad():
        for batch in seen.split(CALIBRATION_BATCH):
            prepared(batch)
    prepared.apply(enable_fake_quant)
    return settable(prepared)


def together(images: Images) -> Tensor:
    """(N, C, H, W).

    Raises:
        ConfigError: There are none.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    if not sum(map(len, batches)):
        raise ConfigError("no images to calibrate on; some hundred of the training split are wanted")
    return torch.cat(batches)


def export(net: MobileNet, images: Tensor) -> GraphModule:
    """The operators of a network on images of this size, in batches of any size; none in place, no dropout."""
    net.add_module("dropout", nn.Identity())
    example = torch.zeros(2, *images.shape[1:])  # of one image, 1 would be taken for a constant
    program = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    graph = program.module()
    assert isinstance(graph, GraphModule)
    for node in graph.graph.nodes:
        node.target = OUT_OF_PLACE.get(node.target, node.target)
    graph.recompile()
    return graph


def observe(prepared: nn.Module, seeing: bool) -> None:
    """Whether a network prepared for training goes on widening its ranges by what it sees."""
    from torchao.quantization.pt2e import disable_observer, enable_observer

    prepared.apply(enable_observer if seeing else disable_observer)


def convert(prepared: GraphModule) -> GraphModule:
    """The int8 graph, on the CPU, of what `prepare` made; that is used up."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted: GraphModule = convert_pt2e(prepared.cpu())
    return settable(GraphModule(converted, converted.graph))  # without the float weights


def settable(graph: GraphModule) -> GraphModule:
    """A graph that takes `train()` and `eval()`, which change nothing in it; an exported one refuses them."""
    for name in ("train", "eval"):
        setattr(graph, name, MethodType(getattr(nn.Module, name), graph))
    return graph


def save(converted: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Write an int8 graph, weights in 8 bits; `load` reads it.

    Args:
        converted: Of `quantize` or `convert`.
        shape: Of an image, (C, H, W).
        path: Where to.
    """
    example = torch.zeros(2, *shape)
    program = torch.export.export(converted, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()))


def load(path: Path) -> nn.Module:
    """The int8 network that `save` wrote, e.g. the `weights.pt` of a run with precision=int8.

    Raises:
        ConfigError: torchao is not installed, or the file holds something else, as a float run's weights.
    """
    require()
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # whatever torch raises for another file
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is no int8 network, as runs with precision=int8 leave it: {reason}") from None
    assert isinstance(module, GraphModule)
    return settable(module)


def require() -> None:
    """
    Raises:
        ConfigError: What int8 needs is not installed.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # of torchao's own habits
    try:
        import mnet.quantization.quantizer  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"int8 needs torchao and executorch ({error}): pip install 'mnet[executorch]'") from None
