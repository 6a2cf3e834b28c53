"""A trial: one network, trained once. The unit that studies, the command line and W&B agents share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnet.errors import ConfigError, text, unknown
from mnet.models.spec import Network
from mnet.models.tables import table
from mnet.models.toggles import Toggles, with_toggles
from mnet.models.toggles import width as with_width
from mnet.models.width import solve_width
from mnet.tasks import Task, task_of
from mnet.training.recipes import Recipe, quantization_aware, recipe
from mnet.weights.transfer import weights_key

if TYPE_CHECKING:
    from mnet.data import ImageData

Precision = Literal["fp32", "tf32", "bf16", "int8", "int8-qat"]
QUANTIZED: tuple[Precision, ...] = ("int8", "int8-qat")
"""Precisions of a network made from the fp32 run of the same seed; in the others a network is trained."""

USER_DATASETS = ("imagefolder", "photographs")
"""Data sets of a user's own images: the name does not identify them, `data_dir` does."""

RECIPE_OVERRIDES = ("epochs", "epoch_steps", "batch_size", "lr", "weight_decay", "decay_depthwise")
"""Settings that say otherwise than the recipe."""


class InputSpec(NamedTuple):
    """What a network sees; of one's own folders, of which only the images tell, 3 channels and 10 classes."""

    resolution: int
    in_channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Trial(Toggles):
    """Every setting of one training run, flat: the toggles, and what they are tried on.

    `--key=value` on the command line, `parameters` of a sweep file and the columns of the results all are these
    fields.
    """

    model: str = "mobilenet_v3_small"
    """One of mnet.list_models(), or a network of one's own in a file, as make search leaves."""
    dataset: str = "fashion_mnist"
    """One of mnet.data.DATASETS."""
    data_dir: Path = Path("data")
    """Where the data set is, or is put."""
    target_madds: float | None = None
    """Multiply-adds in millions at this resolution, reached by solving for the width; excludes `width`."""
    resolution: int | None = None
    """Height and width of the images in pixels; None = the data set's own."""
    recipe: str = "quick"
    """One of mnet.training.RECIPES."""
    epochs: int | None = None
    """None = the recipe's."""
    epoch_steps: int | None = None
    """Training steps an epoch; None = every image once."""
    batch_size: int | None = None
    """None = the recipe's; the learning rate is scaled with it."""
    lr: float | None = None
    """The schedule's highest learning rate, for the recipe's own batch size; None = the recipe's."""
    weight_decay: float | None = None
    """L2 on weights; None = the recipe's."""
    decay_depthwise: bool | None = None
    """Whether weight decay reaches depthwise kernels; None = the recipe's. V1 leaves it out (§3.3)."""
    precision: Precision = "fp32"
    """Of the arithmetic. tf32 (NVIDIA GPUs) and bf16 (autocast): of convolutions and products, in training and in
    evaluation, while weights stay fp32. int8: the fp32 run with the same settings and seed, rounded after training,
    ranges seen on training images; int8-qat: that run trained on with rounding simulated. Both need
    mnet[executorch]."""
    pretrained: str | None = None
    """Weights to start from, whatever the toggles: a file in torchvision's layout (timm's for V1) of the paper's
    network at this width; imagenet, which fetches torchvision's; or the folder of a finished run. What of them is kept
    is told; see mnet.weights.transfer."""
    tested: bool = True
    """False: judged on validation images alone, as a search does while it looks. No study compares such runs."""
    seed: int = 0
    """Of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_madds is not None and self.width is not None:
            raise ConfigError("width and target_madds both choose the width; give one of them")
        for name in ("target_madds", "resolution", "epochs", "epoch_steps", "batch_size", "lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ConfigError(f"weight_decay must not be negative, but is {self.weight_decay}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be in [0, 2**32), not {self.seed}")
        if self.head is not None:
            self.dataset_class()
            if self.quantized:
                raise ConfigError(f"precision={self.precision} is of classifiers; head={self.head} takes fp32 or bf16")
            if self.pretrained is not None:
                raise ConfigError(f"pretrained={self.pretrained} is of classifiers; head={self.head} starts anew")
        self.network(num_classes=2, in_channels=1)
        self.full_recipe()

    @property
    def quantized(self) -> bool:
        """Whether its network is another run's, in 8 bits."""
        return self.precision in QUANTIZED

    @property
    def task(self) -> Task:
        """What the network is trained for."""
        return task_of(self.head)

    def toggles(self) -> dict[str, object]:
        """The toggles alone, None included."""
        return {field.name: getattr(self, field.name) for field in fields(Toggles)}

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """All fields as plain values, for YAML and tables."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def network(self, num_classes: int, in_channels: int) -> Network:
        """The network to train.

        Raises:
            ConfigError: Unknown model, an impossible combination of toggles, or a `target_madds` out of reach.
        """
        network = with_toggles(table(self.model), Toggles(**self.toggles()), num_classes, in_channels)  # type: ignore[arg-type]
        return network if self.target_madds is None else with_width(network, self.solved_width())

    def solved_width(self) -> float:
        """The width that `target_madds` asks for.

        Solved for the data set's own images, whatever `network` is asked to build, so that it is one width
        wherever the trial is named, hashed or trained.
        """
        data = self.input_spec()
        network = with_toggles(table(self.model), Toggles(**self.toggles()), data.num_classes, data.in_channels)  # type: ignore[arg-type]
        assert self.target_madds is not None
        return solve_width(network, data.resolution, self.target_madds)

    def input_spec(self) -> InputSpec:
        """The images, before they are read.

        Raises:
            ConfigError: Unknown data set.
        """
        known = self.dataset_class()
        resolution = known.native_resolution if self.resolution is None else self.resolution
        return InputSpec(resolution, getattr(known, "in_channels", 3), known.classes(self.task.name) or 10)

    def dataset_class(self) -> type[ImageData]:
        """The data set.

        Raises:
            ConfigError: Unknown, or without what the task needs.
        """
        from mnet.data import DATASETS  # heavy, and seldom needed

        if self.dataset not in DATASETS:
            raise unknown("data set", self.dataset, DATASETS)
        known = DATASETS[self.dataset]
        if (task := self.task.name) not in known.tasks:
            others = ", ".join(name for name, data in DATASETS.items() if task in data.tasks)
            asked = f"head={text(self.head)} is {task}"
            raise ConfigError(f"{asked}, which {self.dataset} has nothing to learn for; one of dataset={others}")
        return known

    def data_settings(self) -> dict[str, object]:
        """What `create_data` takes of this trial."""
        settings: dict[str, object] = {"data_dir": self.data_dir, "resolution": self.resolution}
        return settings | ({"task": self.task.name} if len(self.dataset_class().tasks) > 1 else {})

    def full_recipe(self) -> Recipe:
        """The recipe with this trial's own epochs, batch size and learning rate; of int8, what is done after the
        fp32 run: no epoch, or `quantization_aware`."""
        named = recipe(self.recipe)
        own = {name: getattr(self, name) for name in RECIPE_OVERRIDES}
        trained = replace(named, **{name: value for name, value in own.items() if value is not None})
        if not self.quantized:
            return trained
        return replace(trained, epochs=0) if self.precision == "int8" else quantization_aware(trained)

    def in_float(self) -> Trial:
        """The trial whose run an int8 one starts from."""
        return replace(self, precision="fp32")

    @cached_property
    def run_id(self) -> str:
        """A hash of what is computed: network, recipe, data and seed.

        Two spellings of the same network (V2 as published, and V2 with activation=relu6) are one run, and so are
        the data set's own resolution and none. Fields at their default are left out, so a toggle added later
        changes no older id.
        """
        return self.run_id_of(self.seed)

    def run_id_of(self, seed: int) -> str:
        """The run id of this trial with another seed."""
        network, recipe, data, *precision = self.computed
        canonical = json.dumps([network, recipe, data, seed, *precision], sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @cached_property
    def computed(self) -> list[object]:
        """What is computed with every seed: network, recipe and data; the precision, if it is not fp32, and of int8
        what follows fp32."""
        network = self.network(num_classes=2, in_channels=1)
        data = {"dataset": self.dataset, "resolution": self.foreign_resolution()}
        if self.dataset in USER_DATASETS:
            data["data_dir"] = str(self.data_dir.resolve())
        if self.pretrained is not None:
            data["pretrained"] = weights_key(self.pretrained)
        content: list[object] = [changed(network), changed(self.in_float().full_recipe()), data]
        if self.precision != "fp32":
            content += [self.precision, *([changed(self.full_recipe())] if self.quantized else [])]
        return content if self.tested else [*content, "untested"]

    def foreign_resolution(self) -> int | None:
        """The resolution, where it is not the data set's own."""
        if self.resolution is None:
            return None
        from mnet.data import DATASETS

        data = DATASETS.get(self.dataset)
        return None if data is not None and self.resolution == data.native_resolution else self.resolution


def changed(instance: object) -> dict[str, object]:
    """The fields of a dataclass that are not at their default."""
    values = asdict(instance)  # type: ignore[call-overload]
    return {f.name: values[f.name] for f in fields(instance) if getattr(instance, f.name) != f.default}  # type: ignore[arg-type]
