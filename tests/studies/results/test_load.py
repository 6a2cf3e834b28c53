"""load: one frame from folders, tables, W&B's configuration and summary, and the files that it writes offline."""

import json
import struct
import zlib

import pandas as pd
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from mnet.errors import ConfigError
from mnet.files import write_json, write_yaml
from mnet.studies import load
from mnet.studies.results.archive import Finished, finished_row
from mnet.studies.results.wandb_runs import Address, read_address, read_run
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CONFIG, RESULT, run_folder
from mnet.studies.runs.tracking import PROVENANCE, config_of, summary_names
from mnet.studies.trial import Trial

MEASURED = {
    **{"top1": 50.0, "top5": 100.0, "test_loss": 0.693169, "val_top1": 60.0, "val_loss": 0.691844},
    **{"params": 1527818, "madds": 2064144, "train_seconds": 3.0, "images_per_second": 657.3, "dead_kernels": 0.5},
    **{"device": "a processor", "threads": 1, "torch": "2.14.1", "mnet": "0.1.0", "revision": "0123456789ab"},
    **{"replicas": 1, "compile": "off"},
}
TRIALS = {
    "toggled": Trial(activation="relu", se=False, width=0.5, seed=3),
    "at another size": Trial(resolution=20, target_madds=1.5, epochs=5),
    "int8": Trial(precision="int8", epochs=5),
    "int8-qat": Trial(precision="int8-qat", epochs=20, lr=0.1, batch_size=32),
}


def result_of(trial: Trial) -> dict[str, object]:
    return {**MEASURED, "resolution": trial.input_spec().resolution, "epochs": trial.full_recipe().epochs}


def logged(trial: Trial, root) -> tuple[dict[str, object], dict[str, object]]:
    """Config and summary of a run of a sweep that set whatever is not the default, as W&B hands numbers back."""
    config = json.loads(json.dumps(config_of(Job(trial, root, "activation"), "se=false")))
    set_by_sweep = {name: value for name, value in trial.settings().items() if value is not None}
    shown = {**summary_names(trial.task), **{name: name for name in PROVENANCE}}
    summary = {there: MEASURED[name] for there, name in shown.items()} | {
        "test/top1": 50,
        "madds": 2.064144e6,
    }
    return {**config, **set_by_sweep, "_wandb": {}}, summary


def keep(trial: Trial, root, study: str = "activation", **more: object):
    folder = run_folder(root, study, trial.run_id)
    write_yaml(folder / CONFIG, {**trial.settings(), **more})
    write_json(folder / RESULT, {**result_of(trial), "finished": "2026-01-01T00:00:00+00:00", "format": 2})
    return folder


@pytest.mark.parametrize("name", TRIALS)
def test_what_is_logged_to_wandb_makes_the_row_of_the_folder(name, tmp_path):
    trial = TRIALS[name]
    here = finished_row(Finished("activation", trial, result_of(trial)), {})
    there = finished_row(read_run("run", *logged(trial, tmp_path)), {})
    pd.testing.assert_frame_equal(pd.DataFrame([there]), pd.DataFrame([here]))


def test_runs_of_others_and_unfinished_ones_are_left_out(tmp_path):
    config, summary = logged(Trial(), tmp_path)
    assert read_run("theirs", {"lr": 0.1}, summary) is None
    assert read_run("unfinished", config, {"test/top1": 50.0}) is None
    with pytest.raises(ConfigError, match=r"W&B run me/mnet/x: .*Did you mean mobilenet_v2"):
        read_run("me/mnet/x", {**config, "model": "mobilenet_v22"}, summary)


@pytest.mark.parametrize(
    ("source", "filters"),
    [
        ("me/mnet", {}),
        ("wandb:me/mnet", {}),
        ("https://wandb.ai/me/mnet/workspace?nw=abc", {}),
        ("me/mnet/sweeps/abc", {"sweep": "abc"}),
        ("https://wandb.ai/me/mnet/runs/abc", {"name": "abc"}),
        ("me/mnet/abc", {"name": "abc"}),
    ],
)
def test_an_address_is_read_as_written_or_as_in_the_browser(source, filters):
    assert read_address(source) == Address("me/mnet", filters)


@pytest.mark.parametrize("source", ["results", "/tmp/results", "../results", "a/b/c/d/e", ""])
def test_a_path_is_no_address(source):
    assert read_address(source) is None


def test_a_run_with_arguments_of_the_trainer_is_loaded_and_an_old_table_is_filled_in(tmp_path):
    keep(Trial(), tmp_path, trainer={"precision": "bf16-mixed"})
    assert list(load(tmp_path)["study"]) == ["activation"]
    assert "data_dir" not in load(tmp_path)
    old = tmp_path / "published" / "se"
    old.mkdir(parents=True)
    load(tmp_path).drop(columns=["precision", "target_madds"]).assign(study="se").to_csv(old / "runs.csv", index=False)
    assert load(old)[["precision", "target_madds"]].values.tolist() == [["fp32", "paper"]]


def test_a_run_on_a_folder_of_images_says_which(tmp_path):
    keep(Trial(dataset="imagefolder", data_dir=tmp_path, resolution=28), tmp_path)
    keep(Trial(), tmp_path)
    assert load(tmp_path).set_index("dataset")["data_dir"].to_dict() == {
        "imagefolder": str(tmp_path),
        "fashion_mnist": pytest.approx(float("nan"), nan_ok=True),
    }


def record(**kinds: dict[str, object]) -> bytes:
    """A message of W&B: config or summary with these entries."""
    made = Record()
    for kind, entries in kinds.items():
        for key, value in entries.items():
            getattr(made, kind).update.add(key=key, value_json=json.dumps(value))
    return made.SerializeToString()


def log(*records: bytes, block: int = 32768) -> bytes:
    """Records as LevelDB's log keeps them: in blocks, with a header of 7 bytes for each part of a record."""
    content = b":W&B\xe1\xbe\x00"
    for whole in records:
        left, first = whole, True
        while left or first:
            if (room := block - len(content) % block) < 7:
                content, room = content + bytes(room), block
            part, left = left[: room - 7], left[room - 7 :]
            kind = bytes([{(1, 1): 1, (1, 0): 2, (0, 0): 3, (0, 1): 4}[first, not left]])
            content += struct.pack("<IH", zlib.crc32(kind + part), len(part)) + kind + part
            first = False
    return content


@pytest.fixture
def offline(tmp_path):
    """A file that W&B wrote offline, of a run without a result here, whose records span blocks; and the run's row."""
    trial = TRIALS["toggled"]
    config, summary = logged(trial, tmp_path)
    file = tmp_path / "results" / "wandb" / "offline-run-1-abc" / "run-abc.wandb"
    file.parent.mkdir(parents=True)
    parts = record(config=config), record(summary={"notes": "x" * 70_000}), record(summary=summary)
    file.write_bytes(log(*parts))
    return file, finished_row(Finished("activation", trial, result_of(trial)), {})


def test_an_offline_file_is_a_row_and_with_a_result_in_a_folder_it_is_not_another_one(offline):
    file, row = offline
    root = file.parents[2]
    pd.testing.assert_frame_equal(load(root), pd.DataFrame([row]), check_dtype=False)
    keep(TRIALS["toggled"], root)
    config, summary = logged(TRIALS["toggled"], root)
    older = {name: value for name, value in summary.items() if name not in PROVENANCE}
    file.write_bytes(log(record(config=config), record(summary=older)))
    assert load(root)[["top1", "threads"]].values.tolist() == [[50.0, 1]]
    assert load(root)["threads"].dtype == int


def test_a_file_that_a_kill_cut_off_has_no_finished_run_and_a_damaged_one_is_named(offline):
    file, _ = offline
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(ConfigError, match="no finished run in"):
        load(file.parents[2])
    file.write_bytes(content[:300] + b"?" + content[301:])
    with pytest.raises(ConfigError, match=r"run-abc\.wandb cannot be read with wandb .*damaged at byte 7;"):
        load(file.parents[2])
