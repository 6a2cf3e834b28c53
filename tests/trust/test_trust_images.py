"""Contents decide what an image is: only the listed formats are decoded, whatever the suffix."""

import pytest
from PIL import EpsImagePlugin, Image

from mnet.data.decoding import UnreadableImage, open_image, open_indices, open_lazily, read_sizes

POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tga"])
def test_postscript_under_the_name_of_an_image_starts_no_interpreter(suffix, tmp_path, monkeypatch):
    interpreter, marker = tmp_path / "gs", tmp_path / "it ran"
    interpreter.write_text(f"#!/bin/sh\necho 10\ntouch '{marker}'\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / f"image.{suffix}"
    path.write_text(POSTSCRIPT)
    with pytest.raises(Exception), Image.open(path) as image:  # noqa: B017 - Pillow by itself: the attempt succeeds
        image.load()
    assert marker.exists()
    marker.unlink()
    for opened in (open_image, open_lazily, open_indices, read_sizes):
        with pytest.raises(UnreadableImage, match=path.name):
            opened(path)
    assert not marker.exists()
