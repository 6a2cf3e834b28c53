"""Start from the weights of the paper's network, whatever the toggles: copy what fits, and report the rest.

A toggle changes some rows of the network. Tensors are matched by their position in it and copied unchanged, or adapted
in one of these ways:

- a smaller depthwise kernel keeps the centre; a larger one is padded with zeros and computes the same;
- a stem for grey images sums its filters over the colours, and treats a grey image as the original treats it in RGB.

Everything else is initialised as in a new network.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch.hub
from torch import Tensor
from torch.nn import functional

from mnet.errors import ConfigError, path_text
from mnet.models.network import MobileNet
from mnet.models.resolved import resolve_blocks
from mnet.models.spec import Network
from mnet.weights.files import split_entry
from mnet.weights.truncation import truncated

RUNS_FOLDER = "runs"
"""The folder that holds the folders of a study's runs."""
RUN_CONFIG, RUN_NETWORK, RUN_WEIGHTS = "config.yaml", "network.yaml", "weights.pt"
"""Files in a run's folder: its settings, its network if that came from a file, its weights."""
RUN_FOLDER = re.compile(rf"/{RUNS_FOLDER}/[0-9a-f]{{12}}$")
"""The folder of a run where mnet wrote it: its name is the run id. Weights elsewhere are known by their content."""
IMAGENET = "imagenet"
"""Instead of a file: torchvision's ImageNet weights, downloaded once."""


@dataclass(frozen=True)
class TransferReport:
    """Which parts of a network start from given weights."""

    params: int
    """Parameters of the network."""
    kept: int
    """Parameters copied from the weights, adapted ones included."""
    adapted: Mapping[str, int]
    """Kind of adaptation -> number of tensors."""
    new: Mapping[str, int]
    """Layer, without block numbers (`blocks.se.fc1`) -> number of its tensors that are initialised anew."""
    source: str = ""
    """What was recognised: `timm mobilenet_v3_large, EMA weights, 1,000 classes → 10`."""

    @property
    def share(self) -> float:
        """The fraction of the network's parameters that start from the weights."""
        return self.kept / self.params

    def __str__(self) -> str:
        parts = [self.source] if self.source else []
        parts += [f"{self.share:.1%} of {self.params:,} parameters start from the weights"]
        parts += [f"{kind}: {count}" for kind, count in self.adapted.items()]
        if self.new:
            parts.append("new: " + ", ".join(f"{name} ({count})" for name, count in self.new.items()))
        return "; ".join(parts)


def transfer_published(net: MobileNet, paper: Network, weights: Mapping[str, Tensor]) -> TransferReport:
    """Copy into `net` what fits from its paper's network, at the same width.

    Args:
        net: With any toggles, number of classes and input channels; without a head.
        paper: The paper's network, or a published variant of it.
        weights: Its tensors by name; for missing ones, `net` keeps its own.
    """
    return _copy_matching(net, weights, _matched_blocks(net.network, paper))


def transfer_trained(net: MobileNet, source: MobileNet) -> TransferReport:
    """Copy into `net` what fits from another classifier of this package.

    If `source` has more channels, the strongest are kept, see `mnet.weights.truncation`.
    """
    if len(net.network.blocks) != len(source.network.blocks):
        return _copy_matching(net, source.state_dict(), _matched_blocks(net.network, source.network))
    return _copy_matching(net, truncated(source, net.network), {i: i for i in range(len(net.network.blocks))})


def _copy_matching(net: MobileNet, source: Mapping[str, Tensor], blocks: Mapping[int, int]) -> TransferReport:
    """Copy into `net` what fits from the state dict `source`; `blocks`: block of `net` -> block of `source`."""
    state = net.state_dict()
    copied: dict[str, Tensor] = {}
    adapted: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for name, tensor in state.items():
        fitted = _fit(tensor, source.get(_source_name(name, blocks)))
        if fitted is None:
            new[_without_number(name.rpartition(".")[0])] += 1
            continue
        copied[name], adaptation = fitted
        if adaptation:
            adapted[adaptation] += 1
    net.load_state_dict({**state, **copied})
    sizes = {name: param.numel() for name, param in net.named_parameters()}
    kept = sum(size for name, size in sizes.items() if name in copied)
    return TransferReport(sum(sizes.values()), kept, dict(adapted), dict(new))


def _matched_blocks(network: Network, paper: Network) -> dict[int, int]:
    """Block -> the paper's block at its position, even if toggles removed or inserted rows."""
    rows, paper_rows = (
        [(block.in_channels, block.expanded, block.row.out_channels) for block in resolve_blocks(one)]
        for one in (network, paper)
    )
    runs = difflib.SequenceMatcher(a=rows, b=paper_rows, autojunk=False).get_matching_blocks()
    matches = {run.a + i: run.b + i for run in runs for i in range(run.size)}
    if len(rows) == len(paper_rows):  # rows with other channels match by number
        matches |= {i: i for i in range(len(rows)) if i not in matches and i not in matches.values()}
    return matches


def _source_name(name: str, blocks: Mapping[int, int]) -> str:
    """The tensor's name in the source; empty if its block has no match."""
    part, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    if part != "blocks":
        return name
    return f"blocks.{blocks[int(number)]}.{inner}" if int(number) in blocks else ""


def _without_number(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdecimal())


def _fit(target: Tensor, source: Tensor | None) -> tuple[Tensor, str] | None:
    """`source` in the shape of `target`, and how it was adapted; None if it cannot be."""
    if source is None:
        return None
    if target.shape == source.shape:
        return source, ""
    if target.ndim != 4 or target.shape[0] != source.shape[0]:
        return None
    adaptations = []
    if target.shape[1] == 1 < source.shape[1] and source.shape[2] > 1:
        source, adaptations = source.sum(1, keepdim=True), ["summed over colours"]
    padding = (target.shape[2] - source.shape[2]) // 2
    if padding:
        source = functional.pad(source, (padding,) * 4)  # negative padding crops
        adaptations.append("surrounded by zeros" if padding > 0 else "cut to the centre of their kernel")
    return (source, " and ".join(adaptations)) if target.shape == source.shape else None


def download(model: str) -> Path:
    """The file of torchvision's ImageNet weights of a model, in torch's cache; its hash is checked every time.

    Raises:
        ConfigError: torchvision has none, the download failed, or the file in the cache is not torchvision's.
    """
    url = published_url(model)
    if url is None:
        raise ConfigError(f"torchvision has no weights of {model}; give a file in timm's layout")
    path, expected = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(url), _published_hash(url)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), expected, progress=False)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cannot download {url} ({error}); download it yourself and give pretrained=FILE"
            ) from None
    found = _file_hash(path)
    if not found.startswith(expected):
        raise ConfigError(
            f"{path_text(path)} is not torchvision's file: its SHA-256 begins with {found[: len(expected)]}; remove it"
        )
    return path


def published_url(model: str) -> str | None:
    """The URL of torchvision's ImageNet weights of a model; None if there are none."""
    from torchvision import models  # slow to import, and rarely needed

    return str(models.get_model_weights(model).DEFAULT.url) if model in models.list_models() else None


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _published_hash(url: str) -> str:
    """The beginning of a file's SHA-256, which torchvision writes into its name: `mobilenet_v2-7ebf99e0.pth`."""
    return Path(_file_name(url)).stem.rpartition("-")[2]


def weights_key(source: str, model: str) -> str:
    """Identifies weights wherever they are stored: by the content of the file, or by the run id of a run's folder.

    Args:
        source: As `Trial.pretrained`.
        model: The model whose weights `imagenet` means.
    """
    if source == IMAGENET:
        url = published_url(model)
        return source if url is None else f"{source}-{_published_hash(url)}"
    path, entry = split_entry(source)
    if path.is_dir():
        folder = path.resolve()
        if RUN_FOLDER.search(str(folder)):
            return folder.name
        path = folder / RUN_WEIGHTS
    if not path.is_file():
        return source
    return "#".join(filter(None, [_content_hash(path, path.stat().st_mtime_ns), entry]))


@cache
def _content_hash(path: Path, modified: int) -> str:
    return _file_hash(path)[:16]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
