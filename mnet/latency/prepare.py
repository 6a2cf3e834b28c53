"""A network as a program of a runtime, its outputs checked against eager before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnet.latency.runtimes import ExportError, Precision, Program, Runtime, first_line
from mnet.latency.runtimes.torch_eager import eval_mode
from mnet.models.cost import cost
from mnet.models.network import MobileNet

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "int8": 0.6}
"""fp32: largest error relative to the largest score. int8: root of the mean squared error relative to the standard
deviation of all scores. Kernels that round differently reach 0.1 to 0.5, most in deep untrained networks; one tensor
whose scale is wrong by a factor of 2 reaches 0.7 to 2.4, and useless outputs 1 or more."""
TIE = 2
"""In int8, classes whose eager score is within this many 8-bit steps of the best count as best. Untrained networks have
many, and kernels that round differently choose among them."""
CHECKED: Mapping[Precision, int] = {"fp32": 2, "int8": 16}
"""Number of images on which outputs are compared; no more from a larger batch, since eager runs them on one core."""


@dataclass(frozen=True, kw_only=True)
class PreparedVariant:
    """A variant that is ready to be timed."""

    program: Program
    example: Tensor
    agreement: float
    """Agreement with eager. fp32: largest error over the largest score; int8: share of images with the same best
    class, ties included."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Further columns of its table row."""


def prepare(runtime: Runtime, net: nn.Module, resolution: int, *, batch: int = 1, seed: int = 0) -> PreparedVariant:
    """The network as a program of the runtime, its outputs checked against eager.

    Raises:
        ExportError: The network cannot be exported or run, or its outputs are not finite or differ from eager's.
    """
    random = torch.Generator().manual_seed(seed)
    channels = _in_channels(net)
    example = torch.randn(batch, channels, resolution, resolution, generator=random)
    program = runtime.prepare(net, example)
    precision = program.info.precision
    count = CHECKED[precision] // batch
    batches = [example]
    if count > 1:
        batches = list(torch.randn(count, batch, channels, resolution, resolution, generator=random))
    checked = torch.linspace(0, batch - 1, min(batch, CHECKED[precision])).long()  # the first, the last, and between
    try:
        with torch.inference_mode():
            expected = torch.cat([eval_mode(net)(images[checked]) for images in batches])
        scores = torch.cat([program(images)[checked] for images in batches])
    except Exception as error:
        raise ExportError(f"{runtime.name} cannot run it: {first_line(error)}") from error
    if not expected.isfinite().all():
        raise ExportError("eager's own outputs are not finite")
    facts: dict[str, object] = {}
    if isinstance(net, MobileNet):
        total = cost(net, resolution)
        facts = {"params": total.params, "madds": total.madds}
    facts |= {"resolution": resolution, "batch": batch}
    agreement = check_outputs(runtime.name, precision, scores, expected)
    return PreparedVariant(program=program, example=example, agreement=agreement, facts=facts)


def check_outputs(runtime: str, precision: Precision, scores: Tensor, expected: Tensor) -> float:
    """The agreement of outputs with eager's `expected`, both (N, classes).

    Raises:
        ExportError: Not finite, of another shape, or too different.
    """
    if scores.shape != expected.shape:
        raise ExportError(f"{runtime} returns {tuple(scores.shape)}, eager {tuple(expected.shape)}")
    if not scores.isfinite().all():
        raise ExportError(f"{runtime} returns outputs that are not finite")
    allowed = TOLERANCE[precision]
    if precision == "fp32":
        error = float((scores - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if error > allowed:
            raise ExportError(f"{runtime} differs from eager by {error:.1e} of the largest score; {allowed} is allowed")
        return error
    error = float((scores - expected).square().mean().sqrt() / expected.std().clamp(min=1e-12))
    if error > allowed:
        raise ExportError(f"{runtime} differs from eager by {error:.2f} standard deviations; {allowed} is allowed")
    step = (expected.max() - expected.min()) / 255
    chosen = expected.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return float((chosen >= expected.amax(1) - TIE * step).float().mean())


def _in_channels(net: nn.Module) -> int:
    """Input channels of the first convolution; 3 if there is none."""
    weights = [value for value in net.state_dict().values() if isinstance(value, Tensor) and value.dim() == 4]
    return int(weights[0].shape[1]) if weights else 3
