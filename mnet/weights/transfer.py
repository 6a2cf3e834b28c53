"""Start from the weights of the paper's network whatever the toggles: what fits is kept, and what is not is told.

Weights are in torchvision's layout (timm's for V1). A toggle changes some rows of the network; tensors are matched by
their place in it, and taken over whole, or adapted in one of these ways:

- a depthwise kernel made smaller keeps its centre; made larger, it is surrounded by zeros and computes the same;
- a stem for grey images sums its filters over the colours, and sees a grey image as it saw one in colour.

All else starts as in a new network.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mnet.errors import ConfigError
from mnet.models.network import MobileNet
from mnet.models.spec import Network, resolve_blocks
from mnet.models.toggles import describe
from mnet.weights.formats import load_torchvision
from mnet.weights.truncation import truncated

IMAGENET = "imagenet"
"""Instead of a file: the weights that torchvision publishes, fetched once."""


@dataclass(frozen=True)
class Transferred:
    """What became of weights in another network."""

    params: int
    """Of the network."""
    kept: int
    """Parameters that start as in the weights, the adapted ones included."""
    adapted: Mapping[str, int]
    """How -> tensors."""
    new: Mapping[str, int]
    """What starts anew -> tensors: parts of a block without its number, as `blocks.se.fc1`."""

    @property
    def share(self) -> float:
        """Of the network's parameters, what starts as in the weights."""
        return self.kept / self.params

    def __str__(self) -> str:
        said = [f"{self.share:.1%} of {self.params:,} parameters start from the weights"]
        said += [f"{how}: {count}" for how, count in self.adapted.items()]
        if self.new:
            said.append("new: " + ", ".join(f"{name} ({count})" for name, count in self.new.items()))
        return "; ".join(said)


def transfer(net: MobileNet, weights: Mapping[str, Tensor]) -> Transferred:
    """Copy into `net` what fits of weights of its paper's own network, of the same width.

    Args:
        net: With any toggles, classes, and colours; without a head.
        weights: In torchvision's layout, of V1 in timm's.

    Raises:
        ConfigError: They are of another network, or of another width; or the network has a head. `net` is left as it
            was.
    """
    if net.network.head is not None:
        raise ConfigError(f"weights of a classifier cannot start a network with head={net.network.head.kind} yet")
    paper = as_published(net.network, weights)
    return take_over(net, paper.state_dict(), matched_blocks(net.network, paper.network))


def transfer_trained(net: MobileNet, source: MobileNet) -> Transferred:
    """Copy into `net` what fits of another classifier of ours; of one with more channels the strongest, see
    `mnet.weights.truncation`."""
    if len(net.network.blocks) != len(source.network.blocks):
        return take_over(net, source.state_dict(), matched_blocks(net.network, source.network))
    return take_over(net, truncated(source, net.network), {i: i for i in range(len(net.network.blocks))})


def take_over(net: MobileNet, theirs: Mapping[str, Tensor], twins: Mapping[int, int]) -> Transferred:
    """Copy into `net` what fits of a state.

    Args:
        net: What starts.
        theirs: Under our names.
        twins: Block of `net` -> theirs.
    """
    own = net.state_dict()
    found: dict[str, Tensor] = {}
    adapted: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for name, tensor in own.items():
        fitting = fit(tensor, theirs.get(named_there(name, twins)))
        if fitting is None:
            new[without_number(name.rpartition(".")[0])] += 1
            continue
        found[name], how = fitting
        if how:
            adapted[how] += 1
    net.load_state_dict({**own, **found})
    sizes = {name: param.numel() for name, param in net.named_parameters()}
    kept = sum(size for name, size in sizes.items() if name in found)
    return Transferred(sum(sizes.values()), kept, dict(adapted), dict(new))


def as_published(network: Network, weights: Mapping[str, Tensor]) -> MobileNet:
    """The paper's network that these weights are of.

    Raises:
        ConfigError: It is none of `network`'s model and width.
    """
    classes = [one.shape[0] for name, one in weights.items() if name.startswith("classifier") and one.ndim == 1]
    errors = []
    for rule in (network.width_rule, *({"paper", "torchvision"} - {network.width_rule})):
        candidate = describe(
            network.name, num_classes=classes[-1] if classes else 1000, width=network.width, width_rule=rule
        )
        try:
            return load_torchvision(MobileNet(candidate), weights)
        except ConfigError as error:
            errors.append(error)
    raise ConfigError(f"these weights do not start {network.name} at width {network.width:g}: {errors[0]}")


def matched_blocks(network: Network, paper: Network) -> dict[int, int]:
    """Block -> the paper's that stands in its place: where toggles left rows out or put some in, the others keep
    theirs."""
    rows, known = (
        [(at.in_channels, at.expanded, at.row.out_channels) for at in resolve_blocks(one)] for one in (network, paper)
    )
    found = difflib.SequenceMatcher(a=rows, b=known, autojunk=False).get_matching_blocks()
    exact = {run.a + i: run.b + i for run in found for i in range(run.size)}
    if len(rows) == len(known):  # of other channels, but in the same places
        exact |= {i: i for i in range(len(rows)) if i not in exact and i not in exact.values()}
    return exact


def named_there(name: str, twins: Mapping[int, int]) -> str:
    part, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    if part != "blocks":
        return name
    return f"blocks.{twins[int(number)]}.{inner}" if int(number) in twins else ""


def without_number(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdecimal())


def fit(own: Tensor, theirs: Tensor | None) -> tuple[Tensor, str] | None:
    """What a tensor starts as, and how it was adapted; None where nothing of the weights fits."""
    if theirs is None:
        return None
    if own.shape == theirs.shape:
        return theirs, ""
    if own.ndim != 4 or own.shape[0] != theirs.shape[0]:
        return None
    said = []
    if own.shape[1] == 1 < theirs.shape[1] and theirs.shape[2] > 1:
        theirs, said = theirs.sum(1, keepdim=True), ["summed over colours"]
    wider = (own.shape[2] - theirs.shape[2]) // 2
    if wider:
        theirs = functional.pad(theirs, (wider,) * 4)  # a negative padding cuts off
        said.append("surrounded by zeros" if wider > 0 else "cut to the centre of their kernel")
    return (theirs, " and ".join(said)) if own.shape == theirs.shape else None


def read_weights(source: str, model: str) -> Mapping[str, Tensor]:
    """Weights of a model, from a file or from torchvision.

    Args:
        source: A file of `torch.save`, a state dict or what holds one as `model` or `state_dict`; or `IMAGENET`.
        model: One of `list_models()`.

    Raises:
        ConfigError: There is no such file, it holds something else, or the weights cannot be fetched.
    """
    if source == IMAGENET:
        return fetch(model)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"pretrained={source} is neither a file of weights nor {IMAGENET}, torchvision's own")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {' '.join(str(error).split())[:200]}") from None
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise ConfigError(f"{path} holds no weights by name")
    return content


def fetch(model: str) -> Mapping[str, Tensor]:
    from torchvision import models  # heavy, and seldom needed

    if model not in models.list_models():
        raise ConfigError(f"torchvision has no weights of {model}; give a file of timm's")
    weights = models.get_model_weights(model).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ConfigError(
            f"{weights.url} cannot be fetched ({error}); put the file there by hand, and give pretrained=FILE"
        ) from None


def weights_key(source: str) -> str:
    """What tells weights apart wherever they lie: a hash of the file's content; of a run, what its folder is called."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name
    return content_hash(path, path.stat().st_mtime_ns) if source != IMAGENET and path.is_file() else source


@cache
def content_hash(path: Path, modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
