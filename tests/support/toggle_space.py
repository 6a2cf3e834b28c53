"""The space of toggles, sampled from the fields of `Toggles`; a new toggle is included automatically."""

import types
import typing
from dataclasses import fields, replace

from hypothesis import strategies as st

import mnet
from mnet import ConfigError, Network, Toggles
from mnet.settings import hints

SAMPLES = {  # for fields that take any number
    "stem_channels": [8, 16, 24, 32],
    "hswish_from": [1, 16, 40, 80, 112, 10_000],
    "se_ratio": [0.05, 0.25, 1.0],
    "width": [0.25, 0.35, 0.5, 1.0, 1.4],
    "head_filters": [64, 256],
}


def values(name: str) -> list:
    """Valid values of a toggle, without None."""
    (hint,) = (option for option in typing.get_args(hints(Toggles)[name]) if option is not types.NoneType)
    if hint is bool:
        return [True, False]
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    assert name in SAMPLES, f"add values of the new toggle {name} to SAMPLES"
    return SAMPLES[name]


NAMES = [field.name for field in fields(Toggles)]
SINGLE = [(model, name, value) for model in mnet.list_models() for name in NAMES for value in values(name)]
models = st.sampled_from(mnet.list_models())
chosen = st.dictionaries(st.sampled_from(NAMES), st.none(), max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(values(name)) for name in names})
)


def shortened(network: Network) -> Network:
    """Keep every third block, which covers every kind; with a dense head, the first and those with a stride, whose maps
    it reads."""
    blocks = network.blocks
    if network.head:
        return replace(network, blocks=blocks[:1] + tuple(row for row in blocks[1:] if row.stride > 1))
    return replace(network, blocks=blocks[::3])


def attempt(model: str, **chosen) -> Network | None:
    """The network, or None if the combination is refused with a reason."""
    try:
        return mnet.describe(model, num_classes=5, **chosen)
    except ConfigError as error:
        assert len(str(error)) > 20
        return None
