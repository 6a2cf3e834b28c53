"""A trial: one network, trained once. The unit that studies, the command line and W&B agents share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnet.errors import ConfigError, DataError, text
from mnet.models.spec import Network
from mnet.models.tables import table
from mnet.models.toggles import Toggles, with_toggles
from mnet.models.toggles import width as with_width
from mnet.models.width import solve_width
from mnet.resources import Storage
from mnet.settings import changed, hints
from mnet.tasks import Task, task_of
from mnet.training.recipes import Augmentation, Recipe, quantization_aware, recipe
from mnet.weights.transfer import weights_key

if TYPE_CHECKING:
    from mnet.data import ImageData

Precision = Literal["fp32", "tf32", "bf16", "int8", "int8-qat"]
QUANTIZED: tuple[Precision, ...] = ("int8", "int8-qat")
"""Precisions whose network is derived from the fp32 run of the same seed."""

RECIPE_OVERRIDES = ("epochs", "epoch_steps", "batch_size", "lr", "weight_decay", "decay_depthwise", "augment")
"""Settings that override the recipe."""

HASHED_AS: Mapping[tuple[str, object], object] = {
    ("augment", "none"): False,
    ("schedule", "warmup_cosine"): "onecycle",
}
"""Recipe values -> what run ids hash in their place: their names when the first ids were made."""


class InputSpec(NamedTuple):
    """Size, channels and classes of the images. A user's folders are not read yet: 3 channels, 10 classes assumed."""

    resolution: int
    in_channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Trial(Toggles):
    """Every setting of one training run: the toggles, the data and the training.

    These fields are the options of the command line (`--key=value`), the `parameters` of a sweep file and columns of
    the results.
    """

    model: str = "mobilenet_v3_small"
    """One of mnet.list_models(), or a network file such as those that make search writes."""
    dataset: str = "fashion_mnist"
    """One of mnet.data.DATASETS."""
    data_dir: Path = Path("data")
    """Folder of the data set; it is downloaded there if missing."""
    images: str | None = None
    """Fingerprint of your own images, recorded by every run. If you set it, other images are refused."""
    storage: Storage = "auto"
    """Where your own images are held once decoded: memory; disk = the folder MNET_CACHE, decoded once for all runs;
    auto = memory if they fit. Results do not depend on it."""
    skip_unreadable: bool = False
    """Skip and count images of your own that cannot be read."""
    target_madds: float | None = None
    """Multiply-adds in millions at this resolution, which set the width multiplier. Excludes `width`."""
    resolution: int | None = None
    """Height and width of the images in pixels; None = the data set's."""
    recipe: str = "quick"
    """One of mnet.training.RECIPES."""
    epochs: int | None = None
    """Passes over the training images; None = the recipe's."""
    epoch_steps: int | None = None
    """Training steps per epoch; None = every image once."""
    batch_size: int | None = None
    """Images per training step; None = the recipe's. The learning rate is scaled with it."""
    lr: float | None = None
    """The highest learning rate of the schedule, at the recipe's batch size; None = the recipe's."""
    weight_decay: float | None = None
    """L2 penalty on weights; None = the recipe's."""
    decay_depthwise: bool | None = None
    """Whether weight decay applies to depthwise kernels; None = the recipe's. V1 excludes them (§3.3)."""
    augment: Augmentation | None = None
    """Random changes to training images: none; flip_crop = mirror and shift by a few pixels; resized_crop = crop of
    random size and aspect, as for ImageNet; None = the recipe's."""
    precision: Precision = "fp32"
    """Arithmetic. tf32 (NVIDIA GPUs) and bf16 (autocast) apply to convolutions and matrix products, in training and in
    evaluation; weights stay fp32. int8 quantizes the fp32 run with the same settings and seed after training, with
    ranges from training images; int8-qat continues that run with simulated quantization. Both need mnet[executorch]."""
    pretrained: str | None = None
    """Weights to start from, with any toggles: a .pt, .pth, .ckpt or .safetensors file of torchvision, timm or
    Lightning (FILE#ENTRY chooses within it) with the network at this width; imagenet, which downloads torchvision's; or
    the folder of a finished run. What was recognised and what fits is reported; see mnet.load_weights."""
    tested: bool = True
    """False: evaluate on validation images only, as a search does. Studies do not compare such runs."""
    seed: int = 0
    """Seed of initial weights, image order and augmentation."""

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
            if self.augment == "resized_crop":
                raise ConfigError(f"augment=resized_crop is for classifiers, not for head={self.head}; use flip_crop")
            if self.quantized:
                raise ConfigError(
                    f"precision={self.precision} supports classifiers only; with head={self.head} use fp32 or bf16"
                )
            if self.pretrained is not None:
                raise ConfigError(f"pretrained={self.pretrained} supports classifiers only, not head={self.head}")
        network = self.network(num_classes=2, in_channels=1)
        if self.full_recipe().batch_size == 1 and self.precision != "int8":
            from mnet.models.single_values import check_batch_of_one  # heavy, and rarely needed

            check_batch_of_one(network, self.input_spec().resolution)

    @property
    def quantized(self) -> bool:
        """Whether the network is the fp32 run's, quantized to 8 bits."""
        return self.precision in QUANTIZED

    @property
    def task(self) -> Task:
        """The task that the network is trained for."""
        return task_of(self.head)

    def toggles(self) -> dict[str, object]:
        """The toggles by name, None included."""
        return {field.name: getattr(self, field.name) for field in fields(Toggles)}

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """All fields by name as plain values, for YAML and tables; `images` is the fingerprint."""
        values = {**asdict(self), "images": self.fingerprint}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def network(self, num_classes: int, in_channels: int) -> Network:
        """The network to train.

        Raises:
            ConfigError: Unknown model, an impossible combination of toggles, or a `target_madds` out of reach.
        """
        network = with_toggles(table(self.model), Toggles(**self.toggles()), num_classes, in_channels)  # type: ignore[arg-type]
        return network if self.target_madds is None else with_width(network, self.solved_width())

    def solved_width(self) -> float:
        """The width that gives `target_madds`.

        It is solved for the input of the data set, not for the arguments of `network`, so that a trial is named, hashed
        and trained with the same width.
        """
        spec = self.input_spec()
        network = with_toggles(table(self.model), Toggles(**self.toggles()), spec.num_classes, spec.in_channels)  # type: ignore[arg-type]
        assert self.target_madds is not None
        return solve_width(network, spec.resolution, self.target_madds)

    def input_spec(self) -> InputSpec:
        """The size of the images and the number of classes, without reading the data set.

        Raises:
            ConfigError: Unknown data set.
        """
        dataset = self.dataset_class()
        resolution = dataset.native_resolution if self.resolution is None else self.resolution
        return InputSpec(resolution, getattr(dataset, "in_channels", 3), dataset.classes(self.task.name) or 10)

    def dataset_class(self) -> type[ImageData]:
        """The class of the data set.

        Raises:
            ConfigError: Unknown data set, or one without annotations for the task.
        """
        from mnet.data import DATASETS, dataset_class  # heavy, and rarely needed

        dataset, task = dataset_class(self.dataset), self.task.name
        if task not in dataset.tasks:
            suitable = ", ".join(name for name, candidate in DATASETS.items() if task in candidate.tasks)
            raise ConfigError(
                f"head={text(self.head)} is for {task}, and {self.dataset} has no annotations for {task}; "
                f"use dataset= one of {suitable}"
            )
        return dataset

    def data_settings(self) -> dict[str, object]:
        """The arguments of `create_data` that follow from this trial."""
        dataset = self.dataset_class()
        settings: dict[str, object] = {"data_dir": self.data_dir, "resolution": self.resolution}
        if len(dataset.tasks) > 1:
            settings["task"] = self.task.name
        for name in ("storage", "skip_unreadable"):
            if name in hints(dataset.settings_type):
                settings[name] = getattr(self, name)
        return settings

    @property
    def data_key(self) -> tuple[object, ...]:
        """A key of the images in memory, equal for trials that can share them."""
        dataset = self.dataset_class()
        augment = dataset.augmentation(self.full_recipe().augment)
        resolution = dataset.native_resolution if self.resolution is None else self.resolution
        return self.dataset, self.data_dir, resolution, augment.resized, self.skip_unreadable

    @cached_property
    def fingerprint(self) -> str | None:
        """Fingerprint of a user's own images: `images`, or that of the files in `data_dir`. None for a published data
        set, or if the files are missing or unreadable."""
        if self.images is not None or not self.dataset_class().is_users:
            return self.images
        try:
            return self.dataset_class().hash_files(self.data_dir).fingerprint
        except DataError:  # reported when the images are read
            return None

    def full_recipe(self) -> Recipe:
        """The recipe with this trial's overrides.

        An int8 recipe covers what follows the fp32 run: no epochs, or for int8-qat `quantization_aware`.
        """
        overrides = {name: value for name in RECIPE_OVERRIDES if (value := getattr(self, name)) is not None}
        trained = replace(recipe(self.recipe), **overrides)
        if not self.quantized:
            return trained
        return replace(trained, epochs=0) if self.precision == "int8" else quantization_aware(trained)

    def in_float(self) -> Trial:
        """The trial of the fp32 run that an int8 run starts from."""
        return self if self.precision == "fp32" else replace(self, precision="fp32")

    @cached_property
    def run_id(self) -> str:
        """A hash of what is computed: network, recipe, data and seed.

        Two spellings of the same network (V2 as published, and V2 with activation=relu6) are one run; so are the native
        resolution and None. Fields at their default are left out, so that a toggle added later does not change the ids
        of earlier runs.
        """
        return self.run_id_of(self.seed)

    def run_id_of(self, seed: int) -> str:
        """The run id of this trial with another seed."""
        before, after = self._around_seed
        return hashlib.sha256(f"{before}{seed}{after}".encode()).hexdigest()[:12]

    @cached_property
    def _around_seed(self) -> tuple[str, str]:
        """The canonical JSON of what is computed, before and after the seed. Claims ask for thousands of run ids."""
        network, *others = self._computed
        content = [network, *(json.dumps(part, sort_keys=True, default=str) for part in others)]
        return f"[{', '.join(content[:3])}, ", "".join(f", {part}" for part in content[3:]) + "]"

    @cached_property
    def _computed(self) -> tuple[str, *tuple[object, ...]]:
        """What a run computes apart from its seed: network (in JSON), recipe and data; unless fp32, the precision, and
        for int8 the recipe that follows the fp32 run; "untested" if it is not tested."""
        network = self.network(num_classes=2, in_channels=1)
        native = self.resolution in (None, self.dataset_class().native_resolution)
        data: dict[str, object] = {"dataset": self.dataset, "resolution": None if native else self.resolution}
        if self.dataset_class().is_users:
            data["images"] = self.fingerprint
        if self.pretrained is not None:
            data["pretrained"] = weights_key(self.pretrained, network.name)
        content: list[object] = [_changed_recipe(self.in_float().full_recipe()), data]
        if self.precision != "fp32":
            content += [self.precision, *([_changed_recipe(self.full_recipe())] if self.quantized else [])]
        return network.canonical, *(content if self.tested else [*content, "untested"])


def _changed_recipe(recipe: Recipe) -> dict[str, object]:
    """As `changed`, with the values as `HASHED_AS` has them."""
    return {name: HASHED_AS.get((name, value), value) for name, value in changed(recipe).items()}
