"""Cityscapes: 2,975 + 500 photographs of 2048 x 1024 with fine masks; 19 classes are evaluated."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import torchvision

from mnet.data.annotated_photographs import AnnotatedPhotographs
from mnet.data.annotated_sources import MaskSource, Source
from mnet.data.published_files import Split
from mnet.data.targets import IGNORED
from mnet.errors import DataError, path_text

_EVALUATED = [kind for kind in torchvision.datasets.Cityscapes.classes if 0 <= kind.train_id < IGNORED]
_TRAIN_ID = np.full(256, IGNORED, np.uint8)
for _kind in _EVALUATED:
    _TRAIN_ID[_kind.id] = _kind.train_id


class Cityscapes(AnnotatedPhotographs):
    """Cityscapes, unpacked in `data_dir/cityscapes`. `resolution` is the height; training crops are square. Pixels of
    classes that are not evaluated have no label."""

    name = "cityscapes"
    tasks = ("segmentation",)
    native_resolution = 1024
    train_size = 2_975
    published_sizes = MappingProxyType({"segmentation": (2_975, 500)})
    background = False
    aspect = 2
    class_names = tuple(kind.name for kind in _EVALUATED)

    @classmethod
    def folder(cls, data_dir: Path) -> Path:
        return data_dir / "cityscapes"

    def source(self, split: Split) -> Source:
        folder = self.folder(self.data_dir)
        try:
            data = torchvision.datasets.Cityscapes(str(folder), split=split, mode="fine", target_type="semantic")
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Cityscapes is not in {folder} ({' '.join(str(error).split())}). Unpack leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip, from https://www.cityscapes-dataset.com after registration, in it."
            ) from error
        files = [(Path(image), Path(targets[0])) for image, targets in zip(data.images, data.targets, strict=True)]
        return CityscapesSource(files, Cityscapes.classes("segmentation"))


class CityscapesSource(MaskSource):
    """Masks with the 19 evaluated classes."""

    def classes_of(self, indices: np.ndarray, file: Path) -> np.ndarray:
        """
        Raises:
            DataError: A value outside 0 to 255.
        """
        if indices.min() < 0 or indices.max() >= len(_TRAIN_ID):
            raise DataError(f"{path_text(file)} has values from {indices.min()} to {indices.max()}; expected 0 to 255.")
        return _TRAIN_ID[indices]
