"""A user's own images, in one folder per class."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mnet.data.augment import Augment
from mnet.data.fingerprint import Files, hash_files
from mnet.data.folders import Listing, list_folder
from mnet.data.image_files import ImageFiles
from mnet.data.module import ClassImages, Description


class ImageFolder(ImageFiles):
    """Images in `data_dir/train/<class>/…` and `data_dir/test/<class>/…`, or in `data_dir/<class>/…`, which is split.

    Images are split by a hash of their own and their folder's name, so adding one moves no other, except if it replaces
    the only test or validation image of a small class, or if `val_size` limits the validation share. `num_classes` and
    `class_names` are set after `prepare_data()`, `in_channels`, `mean` and `std` after `setup()`: 1 channel if every
    image is grey, else 3.
    """

    name = "imagefolder"
    named_by_files = True
    is_users = True
    flip_crop = Augment(flip=True, pad=16)

    def list_files(self) -> Listing:
        return list_folder(self.data_dir)

    def description(self) -> Description:
        return {**super().description(), "images": self.files.fingerprint, "classes": self._classes}

    @cached_property
    def _classes(self) -> dict[str, ClassImages]:
        """Class name -> image counts and hash, in the order of the labels."""
        label_of = {self.files.name_of(path): label for path, label in self.listing.all}
        members: list[list[int]] = [[] for _ in self.class_names]
        for index, name in enumerate(self.files.names):
            if name in label_of:  # otherwise it is unreadable
                members[label_of[name]].append(index)
        counts = {
            split: images.labels.bincount(minlength=self.num_classes).tolist() for split, images in self._splits.items()
        }
        return {
            name: {
                "train": counts["train"][label],
                "val": counts["val"][label],
                "test": counts["test"][label],
                "digest": self.files.fingerprint_of(members[label]),
            }
            for label, name in enumerate(self.class_names)
        }

    @classmethod
    def hash_files(cls, data_dir: Path) -> Files:
        return hash_files(data_dir, [path for path, _ in list_folder(data_dir).all])

    def store_key(self) -> str:
        return self.files.fingerprint
