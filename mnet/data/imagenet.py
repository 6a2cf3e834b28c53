"""ImageNet: ILSVRC 2012, 1,281,167 + 50,000 images of 1,000 classes."""

from __future__ import annotations

from types import MappingProxyType

import torchvision

from mnet.data.published_files import PublishedFiles, Split
from mnet.errors import DataError


class ImageNet(PublishedFiles):
    """ImageNet in torchvision's layout, or its archives. `class_names` are set after `prepare_data()`."""

    name = "imagenet"
    named_by_files = True
    train_size = 1_281_167
    published_sizes = MappingProxyType({"classification": (1_281_167, 50_000)})
    num_classes = 1000

    def names(self, source: torchvision.datasets.DatasetFolder) -> tuple[str, ...]:
        return tuple(names[0] for names in source.classes)

    def source(self, split: Split) -> torchvision.datasets.ImageNet:
        folder = self.data_dir / "imagenet"
        try:
            return torchvision.datasets.ImageNet(folder, split=split)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"ImageNet is not in {folder} ({error}). Put ILSVRC2012_devkit_t12.tar.gz, "
                f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from https://image-net.org after "
                "registration, into it; torchvision unpacks them."
            ) from error
