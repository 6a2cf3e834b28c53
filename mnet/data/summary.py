"""A summary, in a few lines, of the user's own images that a study is about to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnet.data.annotated_photographs import AnnotatedPhotographs
from mnet.data.fingerprint import Files
from mnet.data.fitting import read_size
from mnet.data.folders import Listing
from mnet.data.imagefolder import ImageFolder
from mnet.data.module import ClassImages, ImageData
from mnet.errors import counted, path_text

SHOWN = 8
"""Largest number of classes whose counts are all listed."""
UNBALANCED = 1.5
"""Ratio of the largest to the smallest class in the test set above which accuracy is also averaged over classes."""
SAMPLED = 256
"""Largest number of images whose sizes are read."""


def describe(data: ImageData) -> Iterator[str]:
    """Summary lines of a user's own images (`ImageData.is_users`); none for a published data set.

    For class folders: classes with counts, sizes, channels, splits; imbalance and copies; the accuracy to beat.
    """
    if isinstance(data, ImageFolder):
        yield from _describe_folder(data)
    if isinstance(data, AnnotatedPhotographs):
        train, val, test = data.counts
        found = f"{len(data.class_names)} classes, {train:,} training, {val:,} validation and {test:,} test images"
        yield f"{path_text(data.data_dir)}: {data.name}, {found}, seen at {data.resolution} x {data.resolution}"
        if found := data.other_sizes(data.task, train + val, test):
            yield f"  {found}: these are your own images in its format, so results do not count for {data.name}"


def _describe_folder(data: ImageFolder) -> Iterator[str]:
    classes = data.description()["classes"]
    yield f"{path_text(data.data_dir)}: {data.listing}"
    yield f"  {_sizes(data)}; {_validation(classes)}"
    yield f"  training + test: {_counts(classes)}"
    yield f"  {majority(classes)}"
    if is_unbalanced(classes):
        yield "  classes differ in size: macro accuracy, the mean over classes, is reported next to top-1"
    yield from _copies(data.listing, data.files)


def majority(classes: Mapping[str, ClassImages]) -> str:
    """The accuracy that any network must beat, and how much one test image counts."""
    tests = {name: images["test"] for name, images in classes.items()}
    total, largest = sum(tests.values()), max(tests, key=lambda name: tests[name])
    return (
        f"always answering {largest} is right in {100 * tests[largest] / total:.1f}% of the {total:,} test images; "
        f"one image is worth {one_image(total):.2g} points"
    )


def one_image(tested: int) -> float:
    """How much one test image counts, in percentage points of accuracy."""
    return 100 / tested


def is_unbalanced(classes: Mapping[str, ClassImages]) -> bool:
    """Whether the classes differ much in size in the test set."""
    counts = [images["test"] for images in classes.values()]
    return max(counts) > UNBALANCED * min(counts)


def _sizes(data: ImageFolder) -> str:
    paths = [path for path, _ in data.listing.all]
    sizes = [size for path in paths[:: -(-len(paths) // SAMPLED)] if (size := read_size(path)) is not None]
    small, large = (choose(sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
    extent = f"{small[0]} x {small[1]}"
    extent += "" if small == large else f" to {large[0]} x {large[1]}"
    colour = "grey, one channel" if data.in_channels == 1 else "in colour, three channels"
    return f"{extent} pixels, {colour}, seen at {data.resolution} x {data.resolution}"


def _validation(classes: Mapping[str, ClassImages]) -> str:
    count = sum(images["val"] for images in classes.values())
    return f"{counted(count, 'image')} for validation"


def _counts(classes: Mapping[str, ClassImages]) -> str:
    counts = {name: (images["train"] + images["val"], images["test"]) for name, images in classes.items()}
    if len(counts) <= SHOWN:
        return ", ".join(f"{name} {train:,} + {test:,}" for name, (train, test) in counts.items())
    ends = [choose(counts, key=lambda name: counts[name][0]) for choose in (min, max)]
    least, most = (f"{counts[name][0]:,} + {counts[name][1]:,} ({name})" for name in ends)
    return f"{least} to {most}"


def _copies(listing: Listing, files: Files) -> Iterator[str]:
    """A line if test images are also training images, byte for byte, and one if there are other copies."""
    digest_of = dict(zip(files.names, (digest.tobytes() for digest in files.digests), strict=True))

    def digests(samples: tuple[tuple[Path, int], ...]) -> dict[Path, bytes]:
        return {path: digest_of[files.name_of(path)] for path, _ in samples}

    trained = {digest: path for path, digest in digests(listing.train_and_val).items()}
    copies = [(path, trained[digest]) for path, digest in digests(listing.test).items() if digest in trained]
    if copies:
        test, train = (path_text(files.name_of(path)) for path in copies[0])
        count = f"{len(copies):,} test image{'s are' if len(copies) > 1 else ' is'}"
        yield f"  {count} in the training images too, such as {test} as {train}: this inflates every accuracy"
    kinds = Counter(digest_of.values())
    if (again := sum(kinds.values()) - len(kinds)) > len(copies):
        yield f"  {again:,} images are copies of others"
