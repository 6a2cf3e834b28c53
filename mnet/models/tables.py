"""The papers' tables, to be compared with the papers. A row's comment is the size of its input for images of 224 px, in
V4 for those of the paper."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from mnet.errors import ConfigError, unknown
from mnet.files import load_yaml, write_yaml
from mnet.models.spec import Block, Conv, Head, Hidden, Network

# fmt: off

# V1, table 1. A non-linearity follows both the depthwise and the pointwise convolution.
V1 = Network(
    name="mobilenet_v1",
    stem=Conv(kernel=3, out_channels=32, activation="relu", stride=2),
    blocks=(
        Block(kernel=3, expansion=None, out_channels=64,   activation="relu", stride=1, projection="relu"),  # 112
        Block(kernel=3, expansion=None, out_channels=128,  activation="relu", stride=2, projection="relu"),  # 112
        Block(kernel=3, expansion=None, out_channels=128,  activation="relu", stride=1, projection="relu"),  # 56
        Block(kernel=3, expansion=None, out_channels=256,  activation="relu", stride=2, projection="relu"),  # 56
        Block(kernel=3, expansion=None, out_channels=256,  activation="relu", stride=1, projection="relu"),  # 28
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=2, projection="relu"),  # 28
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=1, projection="relu"),  # 14, the five that `shallow` drops
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=1, projection="relu"),  # 14
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=1, projection="relu"),  # 14
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=1, projection="relu"),  # 14
        Block(kernel=3, expansion=None, out_channels=512,  activation="relu", stride=1, projection="relu"),  # 14
        Block(kernel=3, expansion=None, out_channels=1024, activation="relu", stride=2, projection="relu"),  # 14
        Block(kernel=3, expansion=None, out_channels=1024, activation="relu", stride=1, projection="relu"),  # 7; the paper prints stride 2, its sizes say 1
    ),
    tail=None,
    hidden=None,
    shortcut="none",
    dropout=0.0,
    bn_eps=1e-5,
    bn_momentum=0.1,
)

# V2, table 2. The paper prints t = expansion / input channels: 1 in the first row, 6 in the others.
V2 = Network(
    name="mobilenet_v2",
    stem=Conv(kernel=3, out_channels=32, activation="relu6", stride=2),
    blocks=(
        Block(kernel=3, expansion=None, out_channels=16,  activation="relu6", stride=1),  # 112
        Block(kernel=3, expansion=96,   out_channels=24,  activation="relu6", stride=2),  # 112
        Block(kernel=3, expansion=144,  out_channels=24,  activation="relu6", stride=1),  # 56
        Block(kernel=3, expansion=144,  out_channels=32,  activation="relu6", stride=2),  # 56
        Block(kernel=3, expansion=192,  out_channels=32,  activation="relu6", stride=1),  # 28
        Block(kernel=3, expansion=192,  out_channels=32,  activation="relu6", stride=1),  # 28
        Block(kernel=3, expansion=192,  out_channels=64,  activation="relu6", stride=2),  # 28
        Block(kernel=3, expansion=384,  out_channels=64,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=384,  out_channels=64,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=384,  out_channels=64,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=384,  out_channels=96,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=576,  out_channels=96,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=576,  out_channels=96,  activation="relu6", stride=1),  # 14
        Block(kernel=3, expansion=576,  out_channels=160, activation="relu6", stride=2),  # 14
        Block(kernel=3, expansion=960,  out_channels=160, activation="relu6", stride=1),  # 7
        Block(kernel=3, expansion=960,  out_channels=160, activation="relu6", stride=1),  # 7
        Block(kernel=3, expansion=960,  out_channels=320, activation="relu6", stride=1),  # 7
    ),
    tail=Conv(kernel=1, out_channels=1280, activation="relu6"),
    hidden=None,
    dropout=0.2,
    bn_eps=1e-5,
    bn_momentum=0.1,
)

# V3, table 1.
V3_LARGE = Network(
    name="mobilenet_v3_large",
    stem=Conv(kernel=3, out_channels=16, activation="hswish", stride=2),
    blocks=(
        Block(kernel=3, expansion=None, out_channels=16,  se=False, activation="relu",   stride=1),  # 112
        Block(kernel=3, expansion=64,   out_channels=24,  se=False, activation="relu",   stride=2),  # 112
        Block(kernel=3, expansion=72,   out_channels=24,  se=False, activation="relu",   stride=1),  # 56
        Block(kernel=5, expansion=72,   out_channels=40,  se=True,  activation="relu",   stride=2),  # 56
        Block(kernel=5, expansion=120,  out_channels=40,  se=True,  activation="relu",   stride=1),  # 28
        Block(kernel=5, expansion=120,  out_channels=40,  se=True,  activation="relu",   stride=1),  # 28
        Block(kernel=3, expansion=240,  out_channels=80,  se=False, activation="hswish", stride=2),  # 28
        Block(kernel=3, expansion=200,  out_channels=80,  se=False, activation="hswish", stride=1),  # 14
        Block(kernel=3, expansion=184,  out_channels=80,  se=False, activation="hswish", stride=1),  # 14
        Block(kernel=3, expansion=184,  out_channels=80,  se=False, activation="hswish", stride=1),  # 14
        Block(kernel=3, expansion=480,  out_channels=112, se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=3, expansion=672,  out_channels=112, se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=5, expansion=672,  out_channels=160, se=True,  activation="hswish", stride=2),  # 14, C4 = its expansion
        Block(kernel=5, expansion=960,  out_channels=160, se=True,  activation="hswish", stride=1),  # 7
        Block(kernel=5, expansion=960,  out_channels=160, se=True,  activation="hswish", stride=1),  # 7
    ),
    tail=Conv(kernel=1, out_channels=960, activation="hswish"),
    hidden=Hidden(out_features=1280, activation="hswish"),
    dropout=0.2,
    bn_eps=1e-3,
    bn_momentum=0.01,
    torchvision_rounds=True,
)

# V3, table 2. (Some checkpoints of the authors' code have 1280 hidden features instead of 1024.)
V3_SMALL = Network(
    name="mobilenet_v3_small",
    stem=Conv(kernel=3, out_channels=16, activation="hswish", stride=2),
    blocks=(
        Block(kernel=3, expansion=None, out_channels=16,  se=True,  activation="relu",   stride=2),  # 112
        Block(kernel=3, expansion=72,   out_channels=24,  se=False, activation="relu",   stride=2),  # 56
        Block(kernel=3, expansion=88,   out_channels=24,  se=False, activation="relu",   stride=1),  # 28
        Block(kernel=5, expansion=96,   out_channels=40,  se=True,  activation="hswish", stride=2),  # 28
        Block(kernel=5, expansion=240,  out_channels=40,  se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=5, expansion=240,  out_channels=40,  se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=5, expansion=120,  out_channels=48,  se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=5, expansion=144,  out_channels=48,  se=True,  activation="hswish", stride=1),  # 14
        Block(kernel=5, expansion=288,  out_channels=96,  se=True,  activation="hswish", stride=2),  # 14, C4 = its expansion
        Block(kernel=5, expansion=576,  out_channels=96,  se=True,  activation="hswish", stride=1),  # 7
        Block(kernel=5, expansion=576,  out_channels=96,  se=True,  activation="hswish", stride=1),  # 7
    ),
    tail=Conv(kernel=1, out_channels=576, activation="hswish"),
    hidden=Hidden(out_features=1024, activation="hswish"),
    dropout=0.2,
    bn_eps=1e-3,
    bn_momentum=0.01,
    torchvision_rounds=True,
)

# V4, tables 11, 12 and 14, at 224, 256 and 384 px: `start_kernel` is their DW K1, `kernel` their DW K2. The first two rows
# of Conv-S end in a non-linearity in the authors' code and timm, though table 11 calls them FusedIB. Batch norms: timm
# (the authors' settings differ by network). Dropout: table 10.
V4_SMALL = Network(
    name="mobilenet_v4_conv_small",
    stem=Conv(kernel=3, out_channels=32, activation="relu", stride=2),
    blocks=(
        Block(fused=True,        kernel=3,    expansion=32,  out_channels=32,  activation="relu", stride=2, projection="relu"),  # 112
        Block(fused=True,        kernel=3,    expansion=96,  out_channels=64,  activation="relu", stride=2, projection="relu"),  # 56
        Block(start_kernel=5,    kernel=5,    expansion=192, out_channels=96,  activation="relu", stride=2),  # 28
        Block(start_kernel=None, kernel=3,    expansion=192, out_channels=96,  activation="relu", stride=1),  # 14
        Block(start_kernel=None, kernel=3,    expansion=192, out_channels=96,  activation="relu", stride=1),  # 14
        Block(start_kernel=None, kernel=3,    expansion=192, out_channels=96,  activation="relu", stride=1),  # 14
        Block(start_kernel=None, kernel=3,    expansion=192, out_channels=96,  activation="relu", stride=1),  # 14
        Block(start_kernel=3,    kernel=None, expansion=384, out_channels=96,  activation="relu", stride=1),  # 14
        Block(start_kernel=3,    kernel=3,    expansion=576, out_channels=128, activation="relu", stride=2),  # 14
        Block(start_kernel=5,    kernel=5,    expansion=512, out_channels=128, activation="relu", stride=1),  # 7
        Block(start_kernel=None, kernel=5,    expansion=512, out_channels=128, activation="relu", stride=1),  # 7
        Block(start_kernel=None, kernel=5,    expansion=384, out_channels=128, activation="relu", stride=1),  # 7
        Block(start_kernel=None, kernel=3,    expansion=512, out_channels=128, activation="relu", stride=1),  # 7
        Block(start_kernel=None, kernel=3,    expansion=512, out_channels=128, activation="relu", stride=1),  # 7
    ),
    tail=Conv(kernel=1, out_channels=960, activation="relu"),
    hidden=Hidden(out_features=1280, activation="relu", norm=True),
    dropout=0.3,
    bn_eps=1e-5,
    bn_momentum=0.1,
)

V4_MEDIUM = Network(
    name="mobilenet_v4_conv_medium",
    stem=Conv(kernel=3, out_channels=32, activation="relu", stride=2),
    blocks=(
        Block(fused=True,        kernel=3,    expansion=128,  out_channels=48,  activation="relu", stride=2),  # 128
        Block(start_kernel=3,    kernel=5,    expansion=192,  out_channels=80,  activation="relu", stride=2),  # 64
        Block(start_kernel=3,    kernel=3,    expansion=160,  out_channels=80,  activation="relu", stride=1),  # 32
        Block(start_kernel=3,    kernel=5,    expansion=480,  out_channels=160, activation="relu", stride=2),  # 32
        Block(start_kernel=3,    kernel=3,    expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=3,    kernel=3,    expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=3,    kernel=5,    expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=3,    kernel=3,    expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=3,    kernel=None, expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=None, kernel=None, expansion=320,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=3,    kernel=None, expansion=640,  out_channels=160, activation="relu", stride=1),  # 16
        Block(start_kernel=5,    kernel=5,    expansion=960,  out_channels=256, activation="relu", stride=2),  # 16
        Block(start_kernel=5,    kernel=5,    expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=3,    kernel=5,    expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=3,    kernel=5,    expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=None, kernel=None, expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=3,    kernel=None, expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=3,    kernel=5,    expansion=512,  out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=5,    kernel=5,    expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=None, kernel=None, expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=None, kernel=None, expansion=1024, out_channels=256, activation="relu", stride=1),  # 8
        Block(start_kernel=5,    kernel=None, expansion=512,  out_channels=256, activation="relu", stride=1),  # 8
    ),
    tail=Conv(kernel=1, out_channels=960, activation="relu"),
    hidden=Hidden(out_features=1280, activation="relu", norm=True),
    dropout=0.2,
    bn_eps=1e-5,
    bn_momentum=0.1,
)

V4_LARGE = Network(
    name="mobilenet_v4_conv_large",
    stem=Conv(kernel=3, out_channels=24, activation="relu", stride=2),
    blocks=(
        Block(fused=True,        kernel=3,    expansion=96,   out_channels=48,  activation="relu", stride=2),  # 192
        Block(start_kernel=3,    kernel=5,    expansion=192,  out_channels=96,  activation="relu", stride=2),  # 96
        Block(start_kernel=3,    kernel=3,    expansion=384,  out_channels=96,  activation="relu", stride=1),  # 48
        Block(start_kernel=3,    kernel=5,    expansion=384,  out_channels=192, activation="relu", stride=2),  # 48
        Block(start_kernel=3,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=3,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=3,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=3,    kernel=5,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=3,    expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=3,    kernel=None, expansion=768,  out_channels=192, activation="relu", stride=1),  # 24
        Block(start_kernel=5,    kernel=5,    expansion=768,  out_channels=512, activation="relu", stride=2),  # 24
        Block(start_kernel=5,    kernel=5,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=5,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=5,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=3,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=3,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=5,    expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
        Block(start_kernel=5,    kernel=None, expansion=2048, out_channels=512, activation="relu", stride=1),  # 12
    ),
    tail=Conv(kernel=1, out_channels=960, activation="relu"),
    hidden=Hidden(out_features=1280, activation="relu", norm=True),
    dropout=0.2,
    bn_eps=1e-5,
    bn_momentum=0.1,
)

# Heads. SSDLite: V2 §6.2, with the extra maps of the authors' code. LR-ASPP: V3 §6.4, figure 10. R-ASPP: V2 §6.3, two
# branches of ASPP. The papers do not print the batch norms' eps; these are torchvision's.
HEADS = {
    "ssdlite": Head(kind="ssdlite", filters=(512, 256, 256, 128), bn_eps=1e-3, boxes=(3, 6, 6, 6, 6, 6)),
    "lr_aspp": Head(kind="lr_aspp", filters=(128,), bn_eps=1e-5),
    "r_aspp":  Head(kind="r_aspp",  filters=(256,), bn_eps=1e-5),
}

# fmt: on

MODELS: Mapping[str, Network] = MappingProxyType(
    {net.name: net for net in (V1, V2, V3_LARGE, V3_SMALL, V4_SMALL, V4_MEDIUM, V4_LARGE)}
)


def list_models() -> list[str]:
    """The models that `create_model` and `describe` accept."""
    return list(MODELS)


FILES = (".yaml", ".yml")
"""Suffixes of files written by `write_network`."""


def table(model: str) -> Network:
    """The published table of a model, or the network in a file written by `write_network`.

    Raises:
        ConfigError: Unknown model (the message has the nearest name), or a missing or malformed file.
    """
    if model.endswith(FILES):
        path = Path(model).expanduser()
        if not path.is_file():
            raise ConfigError(f"model={model}: no such file")
        return _read_network(path, path.stat().st_mtime_ns)
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    return MODELS[model]


@cache
def _read_network(path: Path, modified: int) -> Network:
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a network: it must be a mapping")
    try:
        return Network.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None


def write_network(network: Network, path: Path) -> None:
    """Write a network to a YAML file, which can be given wherever a model's name is expected."""
    write_yaml(path, network.to_dict())
