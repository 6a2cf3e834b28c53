"""The networks that a study's latency is measured on."""

from __future__ import annotations


COMPOSED = "hswish"
"""Of a claim's network, beside settings of a trial: `hswish: composed`."""
SETTLING, CALIBRATION = 8, 16
"""Random images that batch norms are settled and int8 ranges are taken on; where the last map is a pixel, as of small
ones and of SSDLite's extra maps, eight times as many to settle on."""


@dataclass(frozen=True)
class Subject:
    """A network to be timed."""

    trial: Trial
    composed: bool = False
    """Whether h-swish is several operators, x * relu6(x + 3) / 6, as before there was one."""

    @property
    def resolution(self) -> int:
        return self.trial.input_spec().resolution


@dataclass(frozen=True)
class Pair:
    """A claim, and the names of the two subjects that it compares."""

    claim: Claim
    baseline: str
    variant: str


def subjects(study: Study, claims: Sequence[Claim]) -> tuple[dict[str, Subject], list[Pair]]:
    """The cells of a study, the baseline first, then what its latency claims need beside them; and the claims' pairs.

    Raises:
        ConfigError: A claim about a network that cannot be built.
    """
    found = {cell.name: Subject(cell.trials[0]) for cell in study.cells}
    data = study.cells[0].trials[0]
    pairs = []
    for claim in claims:
        if claim.study != study.name or not testable(claim):
            continue
        names = []
        for setup in (claim.baseline, claim.variant):
            assert setup is not None
            subject = subject_of(setup, data)
            same = (name for name, one in found.items() if one == subject)
            equal = (name for name, one in found.items() if identity(one) == identity(subject))
            name = next(same, None) or next(equal, None) or setup_name(setup)
            found.setdefault(name, subject)
            names.append(name)
        pairs.append(Pair(claim, *names))
    return found, pairs


def testable(claim: Claim) -> bool:
    """Whether a claim is of latency, about two networks that this family has."""
    return claim.kind == "latency" and claim.baseline is not None and claim.variant is not None


def subject_of(setup: Mapping[str, object], data: Trial) -> Subject:
    """A claim's network on the images of `data`."""
    check_names("setting of a claim", setup, (*PARAMETERS, COMPOSED))
    settings = {name: value for name, value in setup.items() if name != COMPOSED}
    images = {"dataset": data.dataset, "data_dir": data.data_dir, "resolution": data.resolution}
    return Subject(trial_from({**images, **settings}), composed=setup.get(COMPOSED) == "composed")


def identity(subject: Subject) -> tuple[object, ...]:
    """Equal for two spellings of one network at one resolution."""
    trial, data = subject.trial, subject.trial.input_spec()
    precision = "int8" if trial.quantized else "fp32"
    return trial.network(data.num_classes, data.in_channels), data.resolution, precision, subject.composed


def setup_name(setup: Mapping[str, object]) -> str:
    return " ".join(f"{name}={text(value)}" for name, value in setup.items())


def build(subject: Subject, seed: int = 0) -> nn.Module:
    """The module to time: weights drawn by `seed`, batch norms settled; in int8 where the trial says so."""
    trial, data = subject.trial, subject.trial.input_spec()
    random = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        return torch.randn(count, data.in_channels, data.resolution, data.resolution, generator=random)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileNet(trial.network(data.num_classes, data.in_channels))
    settle(net, images(SETTLING * (8 if data.resolution < 96 or net.head is not None else 1)))
    if subject.composed:
        net = compose(net)
    if not trial.quantized:
        return net
    from mnet.quantization import quantize

    return quantize(net, images(CALIBRATION))


@torch.no_grad()
def settle(net: MobileNet, images: Tensor) -> None:
    """Give batch norms the statistics of `images`, (N, C, H, W), as training would of its own."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean
    net.train()
    net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


class ComposedHardSwish(nn.Module):
    """h-swish of primitives. Source: V3 §5.2 and §6.2, "not fused"."""

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.relu6(x + 3) / 6


def compose(net: MobileNet) -> MobileNet:
    """A copy whose h-swish is no operator of its own."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        for name, child in layer.named_children():
            if isinstance(child, Activate) and child.name == "hswish":
                setattr(layer, name, ComposedHardSwish())
    return net
