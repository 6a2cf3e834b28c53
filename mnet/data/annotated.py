"""Data sets with boxes or masks: the task decides which labels the batches have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mnet.data.augment import Augment
from mnet.data.module import DataSettings, ImageData
from mnet.errors import unknown
from mnet.training.recipes import Augmentation


@dataclass(frozen=True, kw_only=True)
class AnnotatedSettings(DataSettings):
    """Settings of a data set with boxes or masks."""

    batch_size: int = 32
    task: str | None = None
    """detection or segmentation; None is the first that the data set allows."""


class AnnotatedData(ImageData):
    """Mixin of a data set for detection or segmentation; the other base is a `DecodedImages` class."""

    settings_type = AnnotatedSettings
    settings: AnnotatedSettings
    background: ClassVar[bool] = True
    """Whether segmentation has a background class, 0."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        task = self.settings.task
        if task not in (None, *self.tasks):
            raise unknown(f"task of {self.name}", task, self.tasks)
        self.task = self.tasks[0] if task is None else task
        self.num_classes = self.classes(self.task)

    @classmethod
    def classes(cls, task: str) -> int:
        return len(cls.class_names) + (task == "segmentation" and cls.background)

    @classmethod
    def augmentation(cls, name: Augmentation) -> Augment:
        """As for classifiers, but `resized_crop` of their recipes is `flip_crop`: boxes and masks cannot be cropped."""
        return super().augmentation("flip_crop" if name == "resized_crop" else name)

    @property
    def label_names(self) -> tuple[str, ...]:
        has_background = self.task == "segmentation" and self.background
        return ("background", *self.class_names) if has_background else self.class_names
