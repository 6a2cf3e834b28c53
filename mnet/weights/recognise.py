"""Recognise weights: the library, the model, its width and its classes, from names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from mnet.errors import ConfigError
from mnet.models.network import MobileNet
from mnet.models.spec import Network
from mnet.models.tables import MODELS
from mnet.models.toggles import Toggles, with_toggles
from mnet.settings import parse
from mnet.weights.files import STEMS
from mnet.weights.formats import in_torchvision, timm_names, torchvision_names

Library = Literal["mnet", "torchvision", "timm"]
LIBRARIES: tuple[Library, ...] = ("mnet", "torchvision", "timm")
MARKS = dict(zip(STEMS, LIBRARIES, strict=True))
"""A tensor that only classifiers in the layout of a library have."""
OTHERS = {
    "backbone.features.0.0.0.weight": "an SSDLite detector in torchvision's layout",
    "backbone.0.0.weight": "an LR-ASPP segmenter in torchvision's layout",
    "head.gate.weight": "an LR-ASPP segmenter in mnet's layout",
    "head.extra.0.0.conv.weight": "an SSDLite detector in mnet's layout",
    "conv1.weight": "a ResNet or another family",
}
BACKBONE, CLASSIFIER = ("stem.", "blocks."), "classifier"
"""Prefixes of mnet's tensors before the last 1x1 convolution, and of a classifier's in every layout."""
WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.25, 1.3, 1.4)
"""Published widths."""
MINIMALISTIC: Mapping[str, object] = {"se": False, "activation": "relu", "kernel": 3}
"""Toggles of the minimalistic V3."""
VARIANTS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("", {}),
    ("minimalistic", MINIMALISTIC),
    ("with a reduced tail", {"reduced_tail": True}),
    ("with the stem of width 1", {"stem_channels": 32}),  # timm's mobilenetv3_small_050
    ("with the stem of width 1", {"stem_channels": 64}),  # timm's mobilenetv4_conv_small_050
)


@dataclass(frozen=True)
class Recognised:
    """The network that some weights belong to."""

    library: Library
    network: Network
    variant: str
    """How it differs from the paper's; empty if it does not."""
    names: Mapping[str, str]
    """Tensor name in mnet -> in the library; without those of a classifier that was cut off."""

    @property
    def has_classifier(self) -> bool:
        """Whether the weights include a classifier."""
        return any(name.startswith(CLASSIFIER) for name in self.names)

    @property
    def classes(self) -> str:
        """For example `1,000 classes`."""
        return f"{self.network.num_classes:,} classes" if self.has_classifier else "no classifier"

    @property
    def name(self) -> str:
        """For example `timm mobilenet_v3_large, width 0.75`."""
        network = self.network
        width = "" if network.width == 1 else f", width {network.width:g}"
        rule = ", torchvision's rounding" if network.width != 1 and network.width_rule == "torchvision" else ""
        return f"{self.library} {network.name}{width}{rule}{', ' * bool(self.variant)}{self.variant}"


def recognise(tensors: Mapping[str, Tensor], like: Network, paper: Network | None = None) -> Recognised:
    """The published classifier, or the one of a user's file, whose names and shapes these weights have.

    Args:
        tensors: Tensors by name, without prefixes.
        like: The network they are for, whose model and width are tried first.
        paper: `like` before its toggles; None = the published network of its name.

    Raises:
        ConfigError: No such network; the message names the nearest one and what differs.
    """
    library = next((library for mark, library in MARKS.items() if mark in tensors), None)
    if library is None:
        other = next((other for mark, other in OTHERS.items() if mark in tensors), None)
        found = f"they look like {other}" if other else f"the first is called {next(iter(tensors))}"
        raise ConfigError(
            f"these are not the weights of a MobileNet classifier in a layout of mnet, torchvision or timm: {found}"
        )
    closest: tuple[int, str] | None = None
    headless = not any(name.startswith(CLASSIFIER) for name in tensors)
    stem_channels, in_channels = _stem(tensors, library)
    for network, variant in candidates(like, paper, in_channels, _classes(tensors, library)):
        names = names_in(library, network) if network.stem.out_channels == stem_channels else None
        if names is None:
            continue
        if headless:
            names = {name: key for name, key in names.items() if name.startswith(BACKBONE) or key in tensors}
        problems = differences(tensors, network, names)
        if not problems:
            return Recognised(library, network, variant, names)
        if closest is None or len(problems) < closest[0]:
            closest = len(problems), f"{Recognised(library, network, variant, names).name}: {problems[0]}"
    problem = f"these weights in {library}'s layout match no published MobileNet"
    if closest is None:
        raise ConfigError(f"{problem}: none has a first convolution with {stem_channels} filters")
    count, nearest = closest
    more = f" and {count - 1} more tensors differ" if count > 1 else ""
    raise ConfigError(f"{problem}; the nearest is {nearest}{more}")


def candidates(
    like: Network, paper: Network | None, in_channels: int, num_classes: int
) -> Iterator[tuple[Network, str]]:
    """Published networks and `like` itself, the likeliest first, each with how it differs from the paper's."""
    published = MODELS.get(like.name, like)
    widths = [like.width, *(width for width in WIDTHS if width != like.width)]
    for table in dict.fromkeys([published if paper is None else paper, published, *MODELS.values()]):
        for width in widths:
            for variant, toggles in VARIANTS:
                for rule in ("paper", "torchvision"):
                    given = parse(Toggles, {**toggles, "width": width, "width_rule": rule}, "toggle")
                    try:
                        yield with_toggles(table, given, num_classes, in_channels), variant
                    except ConfigError:
                        continue
            if (table.name, width) == (like.name, like.width):
                yield replace(like, in_channels=in_channels, num_classes=num_classes), "with the same toggles"


@cache
def _shapes(network: Network) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return {name: value.shape for name, value in MobileNet(network).state_dict().items()}


@cache
def names_in(library: Library, network: Network) -> Mapping[str, str] | None:
    """Tensor name in mnet -> in a library; None if its layout cannot hold the network."""
    state = {name: torch.empty(shape, device="meta") for name, shape in _shapes(network).items()}
    if library == "mnet":
        return {name: name for name in state}
    if library == "torchvision" and not in_torchvision(network):
        return None
    try:
        return (timm_names if library == "timm" else torchvision_names)(network, state)
    except ConfigError:
        return None


def differences(tensors: Mapping[str, Tensor], network: Network, names: Mapping[str, str]) -> list[str]:
    """Why weights are not those of a network: one message per missing, unexpected or differently shaped tensor."""
    wanted = {key for key in names.values() if not key.endswith(COUNTER)}
    given = {key for key in tensors if not key.endswith(COUNTER)}
    problems = [f"{key} is missing" for key in sorted(wanted - given)]
    problems += [f"{key} is unexpected" for key in sorted(given - wanted)]
    shapes = _shapes(network)
    for name, key in names.items():
        if key in given and squeezed(tensors[key].shape) != squeezed(shapes[name]):
            problems.append(f"{key} is {tuple(tensors[key].shape)}, expected {tuple(shapes[name])}")
    return problems


COUNTER = "num_batches_tracked"
"""A batch norm's number of batches so far, which many files lack."""


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the ones at its end, so that a 1x1 convolution equals a fully connected layer."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _stem(tensors: Mapping[str, Tensor], library: Library) -> tuple[int, int]:
    """Output and input channels of the first convolution."""
    mark = next(mark for mark, name in MARKS.items() if name == library)
    out_channels, in_channels, *_ = tensors[mark].shape
    return out_channels, in_channels


def _classes(tensors: Mapping[str, Tensor], library: Library) -> int:
    biases = [value for name, value in tensors.items() if name.startswith("classifier") and value.ndim == 1]
    return len(biases[-1]) if biases else 1000


def renamed(found: Recognised, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names in mnet, in its shapes; counters that are missing are 0."""
    shapes, start = _shapes(found.network), torch.tensor(0)
    return {name: tensors.get(key, start).reshape(shapes[name]) for name, key in found.names.items()}
