"""ImageNet: ILSVRC 2012, 1,281,167 + 50,000 images of 1,000 classes."""

from __future__ import annotations

import torchvision

from mnet.data.decoding import open_lazily
from mnet.data.streamed_images import StreamedImages
from mnet.data.streams import Split
from mnet.errors import DataError


class ImageNet(StreamedImages):
    """ImageNet in torchvision's layout, or its archives. `class_names` are set after `prepare_data()`."""

    name = "imagenet"
    named_by_files = True
    train_size = 1_281_167
    num_classes = 1000

    def source(self, split: Split) -> torchvision.datasets.ImageNet:
        folder = self.data_dir / "imagenet"
        try:
            source = torchvision.datasets.ImageNet(folder, split=split, loader=open_lazily)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"ImageNet is not in {folder} ({error}). Put ILSVRC2012_devkit_t12.tar.gz, "
                f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from https://image-net.org after "
                "registration, into it; torchvision unpacks them."
            ) from error
        self.class_names = tuple(names[0] for names in source.classes)
        return self.check_classes(source)
