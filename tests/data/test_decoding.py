"""Images of every kind that users have are decoded as a person sees them, or are refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnet.data.decoding import IMAGE_SUFFIXES, UnreadableImage, open_image, turn
from mnet.data.fitting import read_pixels

RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)
"""Brightness from black to white."""
RAMP_BYTES = (RAMP * 255).round().astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    """Decode a file to (H, W, 3); the other way to read it has to agree."""
    image = open_image(path)
    assert image.mode == "RGB"
    again = path.with_name("again.png")
    image.save(again)
    fitted, expected = (read_pixels(one, 8).astype(float) for one in (path, again))
    again.unlink()
    assert np.abs(fitted - expected).mean() < 8  # a JPEG is decoded at a lower size
    return np.asarray(image)


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF data with these tags: (number, type, count, the four bytes of the value)."""
    content = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + content + struct.pack(order + "I", 0) + struct.pack("<ii", -1, 0)


def corner(width: int = 64, height: int = 48) -> Image.Image:
    """A black image with a white upper left quarter."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), (0, 0, width // 2, height // 2))
    return image


def is_upright(image: np.ndarray) -> bool:
    height, width = image.shape[:2]
    quarters = [image[y : y + 8, x : x + 8].mean() > 128 for y in (4, height - 12) for x in (4, width - 12)]
    return (height, width) == (48, 64) and quarters == [True, False, False, False]


STORED = {
    1: corner(),
    2: corner().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: corner().transpose(Image.Transpose.ROTATE_180),
    4: corner().transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: corner().transpose(Image.Transpose.TRANSPOSE),
    6: corner().transpose(Image.Transpose.ROTATE_90),
    7: corner().transpose(Image.Transpose.TRANSVERSE),
    8: corner().transpose(Image.Transpose.ROTATE_270),
}
"""EXIF orientation -> image as a camera stores it."""

SHORT, ASCII, SIGNED_FRACTION = 3, 2, 10
DAMAGED = {
    "a resolution of -1/0": (0x11A, SIGNED_FRACTION, 1, struct.pack("<I", 38)),
    "a maker that lies outside the file": (0x10F, ASCII, 99_999, struct.pack("<I", 1 << 30)),
    "a directory that lies outside the file": (0x8769, 4, 1, struct.pack("<I", 1 << 30)),
    "a type that is none": (0x10F, 999, 1, b"\0\0\0\0"),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_is_turned_upright_from_every_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    STORED[orientation].save(tmp_path / f"a{suffix}", exif=tag)
    assert is_upright(pixels(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_holds_despite_malformed_tags(tmp_path: Path, damage: str, order: str) -> None:
    orientation = (0x112, SHORT, 1, struct.pack(order + "HH", 6, 0))
    tags = sorted([DAMAGED[damage], orientation])
    STORED[6].save(tmp_path / "a.jpg", exif=exif(*tags, order=order), quality=95)
    assert is_upright(pixels(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", exif((0x112, 3, 1, b"\x63\0\0\0"))]
)
def test_exif_data_without_a_valid_orientation_changes_nothing(tmp_path: Path, content: bytes) -> None:
    corner().save(tmp_path / "a.jpg", exif=content, quality=95)
    assert is_upright(pixels(tmp_path / "a.jpg"))


@pytest.mark.parametrize("kind", ["xmp", "text"])
def test_an_orientation_outside_exif_is_read(tmp_path: Path, kind: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    if kind == "xmp":
        STORED[6].save(tmp_path / "a.jpg", quality=95, xmp=b'<rdf:Description tiff:Orientation="6"/>')
    else:
        info = PngInfo()
        info.add_text("Raw profile type exif", "\nexif\n 99\n" + exif((0x112, 3, 1, struct.pack("<HH", 6, 0))).hex())
        STORED[6].save(tmp_path / "a.jpg", "PNG", pnginfo=info)
    assert is_upright(pixels(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    ("suffix", "image"),
    [
        (".png", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
        (".tif", Image.fromarray((RAMP * 65535).round().astype("<u2"))),
        (".tif", Image.fromarray((RAMP * 65535).round().astype(">u2"))),
        (".pgm", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
        (".tif", Image.fromarray((RAMP * 65535).round().astype(np.int32))),
        (".tif", Image.fromarray(RAMP.astype(np.float32))),
        (".png", Image.fromarray(RAMP_BYTES.astype(np.uint16))),  # 8-bit values in 16 bits
        (".png", Image.fromarray(RAMP_BYTES).convert("LA")),
        (".png", Image.fromarray(RAMP_BYTES).convert("RGBA")),
        (".gif", Image.fromarray(RAMP_BYTES)),
        (".tif", Image.fromarray(RAMP_BYTES).convert("RGB").convert("CMYK")),
        (".tga", Image.fromarray(RAMP_BYTES)),
        (".pcx", Image.fromarray(RAMP_BYTES)),
        (".bmp", Image.fromarray(RAMP_BYTES)),
        (".qoi", Image.fromarray(RAMP_BYTES).convert("RGB")),
    ],
)
def test_every_depth_is_as_bright_as_its_8_bits(tmp_path: Path, suffix: str, image: Image.Image) -> None:
    image.save(tmp_path / f"a{suffix}")
    assert np.abs(pixels(tmp_path / f"a{suffix}").astype(int) - RAMP_BYTES[..., None]).max() <= 1


def test_a_tiff_of_12_bits_is_as_bright_as_its_8_bits(tmp_path: Path) -> None:
    values = (RAMP * 4095).round().astype(np.uint16).reshape(48, 32, 2)
    first, second = values[..., 0].astype(int), values[..., 1].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).astype(np.uint8).tobytes()
    tags = [(256, 64), (257, 48), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 48), (279, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    (tmp_path / "a.tif").write_bytes(head + packed + struct.pack("<H", len(tags)) + directory + bytes(4))
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - RAMP_BYTES[..., None]).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pbm", ".gif"])
def test_one_bit_is_black_or_white(tmp_path: Path, suffix: str) -> None:
    corner().convert("1").save(tmp_path / f"a{suffix}")
    assert set(np.unique(pixels(tmp_path / f"a{suffix}"))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_and_the_rest_keeps_its_colour(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 32, 48))
    image.convert(mode).save(tmp_path / "a.png")
    seen = pixels(tmp_path / "a.png")
    assert (seen[:, 32:] == 255).all()
    assert np.abs(seen[:, :32].astype(int) - 90).max() <= 3  # the palette of 256 colours has no 90


def test_the_first_image_of_several_is_used(tmp_path: Path) -> None:
    corner().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (64, 48), "white")])
    assert is_upright(pixels(tmp_path / "a.gif"))


def test_a_formats_content_counts_and_not_its_suffix(tmp_path: Path) -> None:
    corner().save(tmp_path / "a.jpg", "BMP")
    assert is_upright(pixels(tmp_path / "a.jpg"))


def png(width: int, height: int) -> bytes:
    """The header of a PNG that claims this size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 1 << 20) + b"IDAT"


def as_file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not one of JPEG, PNG"),
        (b"no image at all", "not one of JPEG, PNG"),
        (as_file(corner(), "JPEG")[:-200], "(?i)truncated"),
        (as_file(corner(), "PNG")[:100], "."),
        (as_file(corner(), "GIF")[:100], "."),
        (as_file(corner(), "TIFF")[:200], "."),
        (as_file(corner(), "WEBP")[:60], "."),
        (png(60_000, 60_000), "decompression bomb"),
        (as_file(corner(), "EPS"), "not one of JPEG, PNG"),
        (as_file(corner(), "PDF"), "not one of JPEG, PNG"),
        (as_file(Image.fromarray(RAMP.astype(np.float32) * 300 - 1), "TIFF"), "from -1 to 299; expected 0 to 1"),
        (as_file(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), "from nan to nan"),
        (
            as_file(Image.fromarray(np.full((9, 9), 70_000, np.int32)), "TIFF"),
            "from 70000 to 70000; expected 0 to 65535",
        ),
    ],
)
def test_an_unreadable_image_is_named_on_one_line_however_it_is_read(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    messages = []
    for read in (open_image, lambda path: read_pixels(path, 8)):
        with pytest.raises(UnreadableImage, match=why) as error:
            read(path)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path} cannot be read as an image (")
    assert messages[0].endswith("or skip it with --skip_unreadable=true.")
    assert "\n" not in messages[0]


def test_a_name_that_is_not_utf8_is_shown_with_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    try:
        (tmp_path / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names; ext4 takes any: --basetemp=FOLDER on one")
    with pytest.raises(UnreadableImage, match=r"caf\\xe9\\n\.png cannot be read") as error:
        open_image(tmp_path / name)
    str(error.value).encode()


def test_no_format_is_read_that_starts_another_program() -> None:
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".svg", ".fpx"} & set(IMAGE_SUFFIXES)


def test_turning_follows_the_orientation() -> None:
    assert all(is_upright(np.asarray(turn(image, number))) for number, image in STORED.items())
    assert torch.equal(*(torch.from_numpy(np.array(turn(corner(), n))) for n in (1, 99)))
