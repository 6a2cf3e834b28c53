"""A trial: one network, trained once. The unit that studies, the command line and W&B agents share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import docstring_parser

from mnet.errors import ConfigError, text
from mnet.settings import hints
from mnet.spec import Network
from mnet.toggles import Toggles, describe
from mnet.training.recipes import Recipe, recipe


@dataclass(frozen=True, kw_only=True)
class Trial(Toggles):
    """Every setting of one training run, flat: the toggles, and what they are tried on.

    `--key=value` on the command line, `parameters` of a sweep file and the columns of the results all are these
    fields.
    """

    model: str = "mobilenet_v3_small"
    """One of mnet.list_models()."""
    dataset: str = "fashion_mnist"
    """One of mnet.data.DATASETS."""
    data_dir: Path = Path("data")
    """Where the data set is, or is put."""
    resolution: int | None = None
    """Height and width of the pictures in pixels; None = the data set's own."""
    recipe: str = "quick"
    """One of mnet.training.RECIPES."""
    epochs: int | None = None
    """None = the recipe's."""
    batch_size: int | None = None
    """None = the recipe's; the learning rate is scaled with it."""
    lr: float | None = None
    """The schedule's highest learning rate, for the recipe's own batch size; None = the recipe's."""
    seed: int = 0
    """Of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("resolution", "epochs", "batch_size", "lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be in [0, 2**32), not {self.seed}")
        self.network(num_classes=2, in_channels=1)
        self.full_recipe()

    def toggles(self) -> dict[str, object]:
        """The toggles alone, None included."""
        return {field.name: getattr(self, field.name) for field in fields(Toggles)}

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """All fields as plain values, for YAML and tables."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def network(self, num_classes: int, in_channels: int) -> Network:
        """The network to train.

        Raises:
            ConfigError: Unknown model, or an impossible combination of toggles.
        """
        return describe(self.model, num_classes=num_classes, in_channels=in_channels, **self.toggles())

    def full_recipe(self) -> Recipe:
        """The recipe with this trial's own epochs, batch size and learning rate."""
        named = recipe(self.recipe)
        own = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr")}
        return replace(named, **{name: value for name, value in own.items() if value is not None})

    @property
    def run_id(self) -> str:
        """A hash of what is computed: network, recipe, data and seed.

        Two spellings of the same network (V2 as published, and V2 with activation=relu6) are one run. Fields at
        their default are left out, so a toggle added later changes no older id.
        """
        network = self.network(num_classes=2, in_channels=1)
        data = {"dataset": self.dataset, "resolution": self.resolution}
        if self.dataset == "imagefolder":  # elsewhere the name says what the pictures are
            data["data_dir"] = str(self.data_dir.resolve())
        content = [changed(network), changed(self.full_recipe()), data, self.seed]
        canonical = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def changed(instance: object) -> dict[str, object]:
    """The fields of a dataclass that are not at their default."""
    values = asdict(instance)  # type: ignore[call-overload]
    return {f.name: values[f.name] for f in fields(instance) if getattr(instance, f.name) != f.default}  # type: ignore[arg-type]


def cell_name(settings: dict[str, object]) -> str:
    """What a cell of a study is called: the values that are varied, `relu` or `se=true, se_ratio=0.5`."""
    if len(settings) == 1:
        return text(next(iter(settings.values())))
    return ", ".join(f"{name}={text(value)}" for name, value in settings.items())


PARAMETERS = tuple(hints(Trial))
"""Every name that a sweep file or a command line may set."""


@cache
def field_docs() -> dict[str, str]:
    """Parameter -> its documentation: the docstring under the field."""
    parsed = docstring_parser.parse_from_object(Trial).params + docstring_parser.parse_from_object(Toggles).params
    return {param.arg_name: " ".join((param.description or "").split()) for param in parsed}
