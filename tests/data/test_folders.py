"""Users' folders: what counts as an image, a class and a split, and what is reported about the rest."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest

from mnet.data.folders import Listing, list_folder
from mnet.errors import DataError


def files(root: Path, names: str, count: int = 3, suffix: str = ".jpg") -> Path:
    """Create empty images in each of the folders `names`: listing a folder decodes none."""
    for name in names.split():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i:02}{suffix}").touch()
    return root


def images(listing: Listing) -> list[str]:
    assert len(set(listing.all)) == len(listing.all)
    return sorted(path.relative_to(listing.folder).as_posix() for path, _ in listing.all)


TEST_CATS, TEST_DOGS = ["02", "07", "10"], ["03", "05", "14", "18"]
VALIDATION = ["cat/04", "dog/deep/04", "dog/deep/06", "dog/deep/19"]


def test_images_are_split_by_name_as_they_always_were(tmp_path: Path) -> None:
    """The published splits of 2026: an update must not move an image of a folder from train to test."""
    listing = list_folder(files(tmp_path, "cat dog/deep", 20))
    assert [path.stem for path, label in listing.test if label == 0] == TEST_CATS
    assert [path.stem for path, label in listing.test if label == 1] == TEST_DOGS
    held_out = [listing.train[i][0] for i in listing.split(1000)[1].tolist()]
    assert [path.relative_to(tmp_path).with_suffix("").as_posix() for path in held_out] == VALIDATION
    assert listing.train == tuple(sorted(listing.train, key=lambda sample: sample[0]))


@pytest.mark.parametrize(
    "hidden",
    [
        "cat/.ipynb_checkpoints/a.jpg", "cat/@eaDir/00.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/._00.jpg", "dog/a/.b/c/d.jpg",
        "cat/Thumbs.db", "__MACOSX/cat/._a.jpg", ".git/a.jpg", "$RECYCLE.BIN/a.jpg", "@eaDir/a.jpg", "dog/.DS_Store",
    ],
)  # fmt: skip
def test_nothing_hidden_is_an_image_or_a_class(tmp_path: Path, hidden: str) -> None:
    expected = images(list_folder(files(tmp_path, "cat dog")))
    (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / hidden).touch()
    listing = list_folder(tmp_path)
    assert images(listing) == expected
    assert str(listing).endswith("1 file left out: 1 hidden")


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path: Path) -> None:
    assert len(images(list_folder(files(tmp_path / ".cache/@eaDir", "cat dog")))) == 6


def test_a_folder_that_is_called_like_an_image_is_searched_and_is_no_image(tmp_path: Path) -> None:
    files(tmp_path, "cat dog cat/x.jpg")
    (tmp_path / "cat/empty.png").mkdir()
    assert images(list_folder(tmp_path)) == [
        f"{name}/{i:02}.jpg" for name in ("cat", "cat/x.jpg", "dog") for i in range(3)
    ]


def test_links_to_folders_images_and_classes_are_followed(tmp_path: Path) -> None:
    files(tmp_path, "data/cat data/dog store/.annex store/birds store/more")
    (tmp_path / "data/cat/second").symlink_to(tmp_path / "store/more")
    (tmp_path / "data/dog/linked.jpg").symlink_to("../../store/.annex/00.jpg")
    (tmp_path / "data/bird").symlink_to("../store/birds")
    listing = list_folder(tmp_path / "data")
    assert listing.class_names == ("bird", "cat", "dog")
    assert len(images(listing)) == 3 + 6 + 4
    assert not listing.left_out


def test_loops_end_and_no_image_is_listed_twice(tmp_path: Path) -> None:
    expected = images(list_folder(files(tmp_path / "data", "cat/deep dog")))
    (tmp_path / "data/cat/deep/up").symlink_to("..")
    (tmp_path / "data/cat/all").symlink_to(tmp_path / "data")
    (tmp_path / "data/cat/again").symlink_to("deep")
    (tmp_path / "data/cat/everything").symlink_to(tmp_path)
    (tmp_path / "data/dog/self").symlink_to("self")
    (tmp_path / "data/all").symlink_to(".")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog/outside").symlink_to(tmp_path / "elsewhere")
    listing = list_folder(tmp_path / "data")
    assert images(listing) == expected
    assert dict(listing.left_out) == {"broken links": 1}


def test_every_suffix_counts_in_any_case_and_other_files_are_reported(tmp_path: Path) -> None:
    files(tmp_path, "cat dog", 1)
    for i, suffix in enumerate(
        [".GIF", ".Jpeg", ".jfif", ".TIF", ".avif", ".jp2", ".tga", ".pbm", ".HEIC", ".txt", ".eps", ""]
    ):
        (tmp_path / f"cat/x{i}{suffix}").touch()
    (tmp_path / "dog/notes.txt").touch()
    (tmp_path / "stray.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    listing = list_folder(files(tmp_path, "dog", 3))
    train, test = len(listing.train), len(listing.test)
    assert train + test == 9 + 3
    assert str(listing).startswith(f"2 classes, {train} training and {test} test images, 7 files left out: 2 .txt, 1 ")
    assert dict(listing.left_out) == {
        ".txt": 2, "broken links": 1, "outside the class folders": 1, ".eps": 1, ".heic": 1, "without a suffix": 1,
    }  # fmt: skip


def test_the_summary_is_one_line(tmp_path: Path) -> None:
    assert str(list_folder(files(tmp_path, "train/a train/b test/a test/b", 11))) == (
        "2 classes, 22 training and 22 test images"
    )
    files(tmp_path, "test/a", 36, ".heic")
    assert str(list_folder(tmp_path)) == "2 classes, 22 training and 22 test images, 36 files left out: 36 .heic"


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", None, "test"), ("Training", None, "Testing"), ("TRAIN", "Valid", "TEST"), ("training", "VAL", "test"),
        ("Train", "validation", "Testing"),
    ],
)  # fmt: skip
def test_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, val: str | None, test: str) -> None:
    for split, count in ((train, 4), (val, 3), (test, 2)):
        if split is not None:
            files(tmp_path, f"{split}/cat {split}/dog", count)
    listing = list_folder(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert {path.parts[-3] for path, _ in listing.train} == {train}
    assert {path.parts[-3] for path, _ in listing.test} == {test}
    chosen, held_out = listing.split(1000)
    samples = listing.train_and_val
    if val is None:
        assert listing.val is None
        assert str(listing) == "2 classes, 8 training and 4 test images"
        assert {path.parts[-3] for path, _ in samples} == {train}
    else:
        assert [samples[i] for i in held_out.tolist()] == list(listing.val or ())
        assert [samples[i] for i in chosen.tolist()] == list(listing.train)
        assert {path.parts[-3] for path, _ in listing.val or ()} == {val}
        assert str(listing) == "2 classes, 8 training, 6 validation and 4 test images"


def test_a_validation_split_without_a_test_is_the_test_and_this_is_reported(tmp_path: Path) -> None:
    listing = list_folder(files(tmp_path, "train/cat train/dog Val/cat Val/dog"))
    assert listing.val is None
    assert str(listing) == "2 classes, 6 training and 6 test images (those of Val)"
    assert len(listing.split(1000)[1]) == 2


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("train/a train/b", r"test is missing, but train looks like a split.*data_dir=.*train to split"),
        ("Testing/a Testing/b", r"train is missing, but Testing looks like a split"),
        ("val/a test/a val/b test/b", r"train is missing"),
        (
            "train cat dog",
            r"test is missing, but train looks like a split.*next to cat, dog; if it is a class.*rename it",
        ),
        ("val/a bob/a", r"val looks like a split.*next to bob"),
        ("train/a train/b Training/a Training/b test/a test/b", r"rain\w* and [tT]rain\w* are both train; keep one"),
        ("seg_train/a seg_test/a seg_pred/a", r"seg_test, seg_train, which look like splits.*call them test, train"),
        ("train_set/a test_set/a", "look like splits"),
        ("train2017/a val2017/a", "look like splits"),
        ("TrainImages/a TestImages/a", "look like splits"),
        ("train/a train/b test/a", r"test has 1 folders"),
        ("train/a train/b test/a test/c", r"class 'b' is in .*train only; add .*test/b or remove it"),
        (
            "train/a train/b test/a test/b val/a val/c",
            r"class 'b' is in .*test and not in val; add .*val/b or remove it",
        ),
        ("photos/cat photos/dog", r"has 1 folders.*photos has 2; did you mean data_dir=.*photos\?"),
    ],
)
def test_what_may_be_a_split_is_never_a_class(tmp_path: Path, folders: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        list_folder(files(tmp_path, folders))
    assert "\n" not in str(error.value)


def test_classes_whose_names_only_contain_a_splits_are_classes(tmp_path: Path) -> None:
    listing = list_folder(files(tmp_path, "training_shoes test_tube strain valley latest"))
    assert len(listing.class_names) == 5


def test_folders_next_to_complete_splits_are_left_out_and_counted(tmp_path: Path) -> None:
    listing = list_folder(files(tmp_path, "train/a train/b test/a test/b unlabelled"))
    assert str(listing) == "2 classes, 6 training and 6 test images, 3 files left out: 3 in unlabelled"


def test_names_that_are_not_utf8_are_split_and_shown(tmp_path: Path) -> None:
    folder = files(tmp_path, "dog", 5) / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names; ext4 takes any: --basetemp=FOLDER on one")
    for i in range(5):
        (folder / os.fsdecode(b"%d\xff.jpg" % i)).touch()
    (folder / os.fsdecode(b"x.\xff")).touch()
    listing = list_folder(tmp_path)
    assert listing.class_names == ("caf\\xe9", "dog")
    assert len(listing.train + listing.test) == 10
    assert "1 .\\xff" in str(listing)
    str(listing).encode()
    shutil.rmtree(tmp_path / "dog")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog has no image"):
        list_folder(tmp_path)
    folder.rename(tmp_path / os.fsdecode(b"dog\xff"))
    for path in (tmp_path / os.fsdecode(b"dog\xff")).iterdir():
        path.unlink()
    files(tmp_path, "dog")
    with pytest.raises(DataError, match=r"dog\\xff has no image") as error:
        list_folder(tmp_path)
    str(error.value).encode()


def test_a_listing_can_be_sent_to_another_process(tmp_path: Path) -> None:
    listing = list_folder(files(tmp_path, "cat dog .git"))
    assert pickle.loads(pickle.dumps(listing)) == listing


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    files(tmp_path, "cat dog cat/locked")
    (tmp_path / "cat/locked").chmod(0)
    try:
        list((tmp_path / "cat/locked").iterdir())
        pytest.skip("this user may read everything; run the tests as a user other than root")
    except PermissionError:
        with pytest.raises(DataError, match=r"cat/locked cannot be read \(Permission denied\)"):
            list_folder(tmp_path)
    finally:
        (tmp_path / "cat/locked").chmod(0o755)
