"""Cityscapes: 2,975 + 500 photographs of 2048 x 1024 with fine masks, of which 19 classes are evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchvision

from mnet.data.annotated_photographs import AnnotatedPhotographs, Source, check_mask
from mnet.data.streams import Split
from mnet.data.targets import IGNORED
from mnet.data.transforms import Sample
from mnet.errors import DataError

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
    background = False
    aspect = 2
    class_names = tuple(kind.name for kind in _EVALUATED)

    def source(self, split: Split) -> Source:
        folder = self.data_dir / "cityscapes"
        try:
            data = torchvision.datasets.Cityscapes(str(folder), split=split, mode="fine", target_type="semantic")
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Cityscapes is not in {folder} ({' '.join(str(error).split())}). Unpack leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip, from https://www.cityscapes-dataset.com after registration, in it."
            ) from error
        return CityscapesSource(data)


class CityscapesSource(Source):
    """Masks with the 19 evaluated classes."""

    def read(self, index: int) -> Sample:
        file = Path(self.data.targets[index][0])
        image, mask = self.load(index, Path(self.data.images[index]), file)
        return Sample(image, check_mask(_TRAIN_ID[np.array(mask)], image, file, Cityscapes.classes("segmentation")))
