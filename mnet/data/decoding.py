"""Read image files as a viewer shows them: upright, RGB, 8 bits.

An error names the file and the reason on one line.
"""

from __future__ import annotations

import errno
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mnet.errors import DataError, path_text

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico",
    ".pcx", ".qoi",
)  # fmt: skip
"""Suffixes of image files, in lower case."""
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "QOI", "TGA",
)  # fmt: skip
"""Formats that are read, whatever the suffix, by Pillow's names: only raster images, since PostScript and the like
start another program. TGA is last because it has no signature at its start."""
ORIENTATION = 0x0112
"""EXIF tag of the orientation."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> operation that turns the image upright; orientation 1 needs none."""

Image.init()
_READABLE = tuple(name for name in FORMATS if name in Image.OPEN)  # an older Pillow has no AVIF


class UnreadableImage(DataError):
    """One image that cannot be read; the others can be used without it."""


def open_lazily(path: str | Path) -> Image.Image:
    """An image whose size is known, but whose pixels are not decoded yet.

    Raises:
        UnreadableImage: The file is not an image.
    """
    with naming(path):
        return _open(path)


def _open(path: str | Path) -> Image.Image:
    """
    Raises:
        OSError: The file is a device or a pipe, which might never end, or not an image.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return Image.open(path, formats=_READABLE)


def open_image(path: str | Path) -> Image.Image:
    """A decoded image: upright, RGB, 8 bits.

    Raises:
        UnreadableImage: Not a readable image.
    """
    image, orientation = open_stored(path)
    return turn(image, orientation)


def open_stored(path: str | Path) -> tuple[Image.Image, int]:
    """A decoded image as stored, RGB, 8 bits, and its EXIF orientation.

    Raises:
        UnreadableImage: Not a readable image.
    """
    with naming(path), _open(path) as file:
        return to_rgb(file), orientation_of(file)


def open_annotated(path: Path, size: tuple[int, int] | None, annotation: str) -> Image.Image:
    """A decoded image as it was annotated: upright, or as stored if only that has the annotated size.

    Args:
        path: the image.
        size: the annotated width and height; None = upright.
        annotation: the annotation file, for the message.

    Raises:
        UnreadableImage: Not a readable image.
        DataError: Neither orientation has the annotated size.
    """
    stored, orientation = open_stored(path)
    upright = turn(stored, orientation)
    if size is None or upright.size == size:
        return upright
    if stored.size == size:
        return stored
    sizes = f"{upright.width}x{upright.height} pixels, and {size[0]}x{size[1]} in {annotation}"
    raise DataError(f"{path_text(path)} is {sizes}. Annotate it again, or correct its size there.")


def read_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of an image, upright and as stored, without decoding it.

    Raises:
        UnreadableImage: Not an image.
    """
    with naming(path), _open(path) as file:
        turned = orientation_of(file) in (5, 6, 7, 8)
        return (file.height, file.width) if turned else file.size, file.size


def open_indices(path: Path) -> Image.Image:
    """An image whose values are indices, not colours, such as a mask: one channel, not decoded yet.

    Raises:
        UnreadableImage: Not a readable image.
        DataError: It has several channels or floating-point values.
    """
    image = open_lazily(path)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        channels = len(image.getbands())
        kind = f"has {channels} channels ({image.mode})" if channels > 1 else "has floating-point values"
        image.close()
        raise DataError(
            f"{path_text(path)} {kind} where class indices are expected. Save the index of each pixel's class, in one "
            "channel of 8 bits or with a palette."
        )
    return image


def read_indices(path: Path) -> np.ndarray:
    """The indices that an image holds, upright: (H, W) int64.

    Raises:
        UnreadableImage: Not a readable image.
        DataError: It has several channels or floating-point values.
    """
    with open_indices(path) as image, naming(path):
        image.load()
        return np.array(turn(image, orientation_of(image))).astype(np.int64)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn any error while an image is read into an `UnreadableImage` with its path and the reason."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        raise UnreadableImage(
            f"{path_text(path)} cannot be read as an image ({reason(error)}). Repair or delete it, or skip it "
            "with --skip_unreadable=true."
        ) from error


def reason(error: Exception) -> str:
    """Why a file cannot be read, on one line and without its path."""
    if isinstance(error, UnidentifiedImageError):
        return f"its content is not one of {', '.join(_READABLE)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image of this EXIF orientation upright."""
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an opened file, 1 to 8; 1 if it has none. Other tags are not read: they may be malformed."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    orientation = exif_orientation(image.info.get("exif") or _exif_text(image))
    if orientation is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp.encode() if isinstance(xmp, str) else xmp)
        orientation = int(found[1]) if found else 1
    return orientation


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data, or None.

    Source: Exif 2.3 §4.5.4, §4.6.2: after the byte order, the offset of the first directory; it has a count, and
    entries of 12 bytes: tag, type, count, value.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    directory = exif[start:]
    count = struct.unpack_from(order + "H", directory)[0] if len(directory) >= 2 else 0
    for i in range(min(count, (len(directory) - 2) // 12)):
        tag, kind, _, short = struct.unpack_from(order + "HHIH", directory, 2 + 12 * i)
        if tag == ORIENTATION:
            long = struct.unpack_from(order + "I", directory, 2 + 12 * i + 8)[0]
            value = {1: directory[2 + 12 * i + 8], 3: short, 4: long}.get(kind)
            return value if value in range(1, 9) else None
    return None


def _exif_text(image: Image.Image) -> bytes:
    """EXIF data that a PNG holds as text: three lines, then hexadecimal digits."""
    lines = str(image.info.get("Raw profile type exif", "")).split("\n")[3:]
    try:
        return bytes.fromhex("".join(lines))
    except ValueError:
        return b""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to three channels of 8 bits, on white where the image is transparent.

    Integers of 12 or 16 bits keep the upper 8, or the lower 8 if none exceeds 255; floating-point values are 0 to 1.

    Raises:
        ValueError: Values out of range.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(_integers_to_bytes(image))
    elif image.mode == "F":
        image = Image.fromarray(_floats_to_bytes(np.asarray(image)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground


def _integers_to_bytes(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 of integers of 12, 16 or 32 bits."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**16:
        raise ValueError(f"its values are from {low} to {high}; expected 0 to 65535: save it with 8 or 16 bits")
    bits = 12 if getattr(image, "tag_v2", {}).get(258) == (12,) else 16
    return (values >> (bits - 8) if high > 255 else values).astype(np.uint8)


def _floats_to_bytes(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of numbers from 0 to 1."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # true for NaN too
        raise ValueError(
            f"its floating-point values are from {low:g} to {high:g}; expected 0 to 1: save it with 8 bits"
        )
    return (values * 255).round().astype(np.uint8)
