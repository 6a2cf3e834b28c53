"""Files that claim more than they hold, grow while they are read, or never end."""

import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.figure import Figure

from mnet.data.decoding import open_image, read_sizes
from mnet.data.fashion_mnist import verified
from mnet.data.fitting import read_pixels
from mnet.errors import ConfigError, DataError
from mnet.latency.phone.kit import MANIFEST
from mnet.latency.phone.results import import_results
from mnet.latency.phone.runners import RUNNERS
from mnet.studies.runs.store import CORRECT, read_correct, write_correct
from mnet.tasks.drawing import MOST_DRAWN, draw_mask, show_image

MEGABYTE = 2**20


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Check that no more memory is taken at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE


@pytest.mark.parametrize("count", [4 * 10**9, -5, 0, 17, 2**70])
def test_a_file_that_says_more_images_than_it_has_is_left_out(tmp_path, caplog, count):
    buffer = io.BytesIO()
    np.savez(buffer, bits=np.zeros(1, np.uint8), count=np.array(count))
    (tmp_path / CORRECT).write_bytes(buffer.getvalue())
    with at_most(40):
        assert read_correct(tmp_path) is None
    assert f"{tmp_path / CORRECT} is left out: " in caplog.text
    write_correct(tmp_path, np.arange(9) < 4)
    assert read_correct(tmp_path).tolist() == [True] * 4 + [False] * 5


def test_an_archive_that_grows_is_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / CORRECT, bits=np.zeros(128 * MEGABYTE, np.uint8), count=np.array(2**30))
    with at_most(40):
        assert read_correct(tmp_path) is None
    name = "train-images-idx3-ubyte"
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(16 * MEGABYTE)) * 64)
    with at_most(400), pytest.raises(DataError, match="is not the published file"):
        verified(tmp_path, name)


def test_what_never_ends_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        for read in (open_image, read_sizes, lambda path: read_pixels(path, 32)):
            with pytest.raises(DataError, match="not a regular file"):
                read(tmp_path / name)


def test_an_image_is_drawn_with_no_more_pixels_than_a_figure_has(tmp_path):
    axes = Figure().subplots()
    with at_most(300):
        show_image(axes, np.broadcast_to(np.uint8(7), (13_000, 9_000, 3)))
        draw_mask(axes, np.broadcast_to(np.uint8(1), (13_000, 9_000)), ["background", "cat"])
    assert max(max(image.get_array().shape) for image in axes.images) <= MOST_DRAWN
    assert [round(end) for end in axes.get_xlim()] == [0, 9_000] and axes.get_ylim()[0] == 12_999.5
    small = Figure().subplots()
    show_image(small, np.zeros((30, 20, 3), np.uint8))
    assert small.images[0].get_array().shape == (30, 20, 3)


def test_a_line_of_a_phone_is_read_in_the_time_of_its_length():
    runner = RUNNERS[".tflite"]
    good = "Timings (microseconds): count=50 first=1 curr=2 min=1 max=2 avg=1500 std=0 median=1500\n"
    assert runner.seconds(f"{good}Inference timings in us") == pytest.approx(0.0015)
    assert runner.seconds(f"{'count=1 ' * 200_000}\n{good}Inference timings in us") == pytest.approx(0.0015)


@pytest.mark.parametrize(
    "manifest",
    [
        *("", "[]", "{}", "[" * 100_000, '{"baseline": "a", "models": {}}', '{"baseline": 1, "models": {"a.pte": 1}}'),
        *(
            '{"baseline": "a", "models": {"../../a.pte": {"variant": "a"}}}',
            '{"models": {"a.pte": {"variant": ["a"]}}}',
        ),
    ],
    ids=range(8),
)
def test_a_kit_of_a_phone_that_is_damaged_is_one_error(tmp_path, manifest):
    (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(ConfigError, match="damaged"):
        import_results(tmp_path)


def test_one_output_of_a_phone_that_is_damaged_costs_one_round(tmp_path, caplog):
    models = {"a.tflite": {"variant": "a"}, "b.tflite": {"variant": "b"}}
    (tmp_path / MANIFEST).write_text(json.dumps({"baseline": "a", "models": models}))
    (tmp_path / "printed").mkdir()
    for i in range(3):
        for file in models:
            text = "count=5 median=1500\nInference timings in us\nexit status: 0\n"
            (tmp_path / "printed" / f"{i}-{file}.txt").write_text(text)
    os.mkfifo(tmp_path / "printed/3-a.tflite.txt")
    (tmp_path / "printed/state.txt").symlink_to("/dev/zero")
    (tmp_path / "printed/device.txt").write_text("a" * 10**6)
    assert import_results(tmp_path)["rounds"].tolist() == [3, 3]
    assert "3-a.tflite.txt is left out: it is not a regular file" in caplog.text
