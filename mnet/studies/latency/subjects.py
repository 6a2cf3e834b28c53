"""The networks whose latency is measured: a study's cells, and the networks that the papers' claims compare.

Weights are random, not trained: dense kernels take the same time for any weights. Batch norms get the statistics of
random images, so that activations are as large as in a trained network and int8 ranges are not empty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mnet.models.layers import Activate
from mnet.models.network import MobileNet
from mnet.settings import check_names
from mnet.studies.claims.claims import Claim, setup_name
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.runs.store import read_images, run_folder
from mnet.studies.study import Study
from mnet.studies.trial import InputSpec, Trial

COMPOSED = "hswish"
"""A key of a claim's network that is not a setting of a trial: `hswish: composed`."""
SETTLING, CALIBRATION = 8, 16
"""Numbers of random images for batch norms and for int8 ranges. If the last map is one pixel (small images, SSDLite's
extra maps), batch norms get eight times as many."""


@dataclass(frozen=True)
class Subject:
    """A network to be timed."""

    trial: Trial
    composed: bool = False
    """Whether h-swish is several operators, x * relu6(x + 3) / 6, instead of one."""
    kept: tuple[int, int] | None = None
    """Channels and classes of the user's own images that it was trained on; None = the data set's."""

    @property
    def input_spec(self) -> InputSpec:
        spec = self.trial.input_spec()
        return spec if self.kept is None else InputSpec(spec.resolution, *self.kept)

    @property
    def resolution(self) -> int:
        return self.input_spec.resolution


@dataclass(frozen=True)
class ClaimPair:
    """A latency claim, and the names of the two subjects that it compares."""

    claim: Claim
    baseline: str
    variant: str


def list_subjects(
    study: Study, claims: Sequence[Claim], root: Path | None = None
) -> tuple[dict[str, Subject], list[ClaimPair]]:
    """The networks that are timed for a study.

    Args:
        study: The study.
        claims: The papers' claims.
        root: The results folder, whose runs record the channels and classes of a user's own images.

    Returns:
        The subjects by name: the cells, the baseline first, then the networks that only latency claims name; and the
        pairs of the claims.

    Raises:
        ConfigError: A claim names a network that cannot be built.
    """
    kept = None if root is None else kept_input(root, study)
    subjects = {cell.name: Subject(cell.trials[0], kept=kept) for cell in study.cells}
    data = study.cells[0].trials[0]
    pairs = []
    for claim in claims:
        if claim.study != study.name or claim.kind != "latency" or claim.baseline is None or claim.variant is None:
            continue
        names = []
        for setup in (claim.baseline, claim.variant):
            subject = replace(_subject_of(setup, data), kept=kept)
            same = (name for name, known in subjects.items() if known == subject)
            equal = (name for name, known in subjects.items() if identity(known) == identity(subject))
            name = next(same, None) or next(equal, None) or setup_name(setup)
            subjects.setdefault(name, subject)
            names.append(name)
        pairs.append(ClaimPair(claim, *names))
    return subjects, pairs


def kept_input(root: Path, study: Study) -> tuple[int, int] | None:
    """Channels and classes that a study's first run on a user's own images recorded; None without one."""
    for _, trial in study.trials:
        kept = read_images(run_folder(root, study.name, trial.run_id)) if trial.images is not None else None
        if kept is not None:
            return kept["in_channels"], len(kept["label_names"])
    return None


def _subject_of(setup: Mapping[str, object], data: Trial) -> Subject:
    """A claim's network on the images of `data`."""
    check_names("setting of a claim", setup, (*PARAMETERS, COMPOSED))
    settings = {name: value for name, value in setup.items() if name != COMPOSED}
    images = {"dataset": data.dataset, "data_dir": data.data_dir, "resolution": data.resolution}
    return Subject(trial_from({**images, **settings}), composed=setup.get(COMPOSED) == "composed")


def identity(subject: Subject) -> tuple[object, ...]:
    """A key that is equal for two spellings of one network at one resolution: network, resolution, precision,
    `composed`."""
    trial, data = subject.trial, subject.input_spec
    precision = "int8" if trial.quantized else "fp32"
    return trial.network(data.num_classes, data.in_channels), data.resolution, precision, subject.composed


def build_module(subject: Subject, seed: int = 0) -> nn.Module:
    """The module to time, in int8 if the trial is.

    Args:
        subject: The network.
        seed: Seed of the weights and images.
    """
    trial, data = subject.trial, subject.input_spec
    random = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        return torch.randn(count, data.in_channels, data.resolution, data.resolution, generator=random)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileNet(trial.network(data.num_classes, data.in_channels))
    settle(net, images(SETTLING * (8 if data.resolution < 96 or net.head is not None else 1)))
    if subject.composed:
        net = compose_hswish(net)
    if not trial.quantized:
        return net
    from mnet.quantization import quantize

    return quantize(net, images(CALIBRATION))


@torch.no_grad()
def settle(net: MobileNet, images: Tensor) -> None:
    """Set the statistics of batch norms to those of `images`, (N, C, H, W), and `net` to evaluation mode."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # average all batches
    net.train()
    net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


class ComposedHardSwish(nn.Module):
    """h-swish from primitive operators. Source: V3 §5.2 and §6.2, "not fused"."""

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.relu6(x + 3) / 6


def compose_hswish(net: MobileNet) -> MobileNet:
    """A copy whose h-swish is made of primitive operators."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        for name, child in layer.named_children():
            if isinstance(child, Activate) and child.name == "hswish":
                setattr(layer, name, ComposedHardSwish())
    return net
