"""Results folders that come from others: no number is mistaken for another, and one bad file does not stop everything.

Every test repeats an attempt that once succeeded.
"""

import itertools
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import claims as claims_program
import numpy as np
import pandas as pd
import pytest
import studies as studies_program
from common import evaluation

from mnet.errors import ConfigError
from mnet.files import write_csv, write_json, write_yaml
from mnet.studies import load
from mnet.studies.results.diagnosis import deaths_table
from mnet.studies.results.lookup import find_run
from mnet.studies.results.tables import runs_table, write_tables
from mnet.studies.runs.predictions import load_predictor
from mnet.studies.runs.store import (
    CONFIG,
    CORRECT,
    IMAGES,
    LATENCY,
    METRICS,
    RESULT,
    RUNS,
    SUMMARY,
    WEIGHTS,
    find_finished,
    read_result,
    results_root,
    run_folder,
    write_correct,
)
from mnet.studies.study import load_study
from mnet.studies.trial import Trial

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results/published"
TRIAL, RELU = Trial(), Trial(activation="relu")
MEASURED = {
    **{"top1": 80.0, "top5": 99.0, "test_loss": 0.5, "val_top1": 81.0, "val_loss": 0.4, "resolution": 28},
    **{"params": 1000, "madds": 2000, "train_seconds": 60.0, "images_per_second": 100.0, "device": "a processor"},
    **{"threads": 1, "torch": "2.14.1", "mnet": "0.1.0", "revision": "0123456789ab", "format": 2},
}


def keep(root: Path, trial: Trial = TRIAL, study: str = "activation", trainer: object = None, **result: object) -> Path:
    """A finished run, with 80 of 100 test images right."""
    folder = run_folder(root, study, trial.run_id)
    write_yaml(folder / CONFIG, trial.settings() | ({"trainer": trainer} if trainer else {}))
    write_json(folder / RESULT, {**MEASURED, "epochs": trial.full_recipe().epochs, **result})
    write_correct(folder, np.arange(100) < 80)
    return folder


def study(root: Path):
    return load_study(
        ROOT / "experiments/sweeps/activation.yaml",
        {"seed": [0], "activation": ["paper", "relu"], "model": [TRIAL.model]},
    )


def ids(root: Path) -> set[str]:
    """Ids of the runs that are loaded; empty if there are none."""
    try:
        return set(load(root)["run_id"])
    except ConfigError:
        return set()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"top1": value} for value in (250, -5, float("nan"), float("inf"), "80", True, None, [80])),
        *({"top5": 101.0}, {"params": 1.5}, {"params": -1}, {"device": 7}, {"val_loss": float("inf")}),
        *({"top1": 90.0}, {"epochs": 3}, {"resolution": 32}),  # 80 images were right; the settings say otherwise
    ],
    ids=str,
)
def test_a_result_that_cannot_be_is_none(tmp_path, caplog, wrong):
    good, bad = keep(tmp_path), keep(tmp_path, RELU, **wrong)
    assert read_result(bad) is None and find_finished(tmp_path, bad.name) is None
    assert ids(tmp_path) == {good.name}
    assert set(runs_table(study(tmp_path), tmp_path)["run_id"]) == {good.name}
    assert f"{bad / RESULT} is left out: " in caplog.text and next(iter(wrong)) in caplog.text


def test_a_result_keeps_the_identity_of_its_run_whatever_it_says_of_itself(tmp_path):
    folder = keep(tmp_path)
    claimed = {"run_id": "f" * 12, "study": "mine", "seed": 7, "cell": "best", "model": "mobilenet_v2", "lr": 9.0}
    write_json(folder / RESULT, {**MEASURED, "epochs": 2, **claimed})
    (row,) = load(tmp_path).to_dict("records")
    assert (row["run_id"], row["study"], row["seed"], row["model"]) == (folder.name, "activation", 0, TRIAL.model)
    assert (row["lr"], row["cell"]) == (TRIAL.full_recipe().lr, "mobilenet_v3_small")


def test_two_folders_that_were_exchanged_are_no_results(tmp_path, caplog):
    one, other = keep(tmp_path, top1=80.0), keep(tmp_path, RELU, top1=80.0)
    keep(tmp_path, replace(TRIAL, seed=1))
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert ids(tmp_path) == {replace(TRIAL, seed=1).run_id}
    assert find_finished(tmp_path, TRIAL.run_id) is None and find_finished(tmp_path, RELU.run_id) is None
    assert f"are those of run {RELU.run_id}, not {TRIAL.run_id}" in caplog.text


def test_two_results_of_one_run_are_none_and_copies_are_one(tmp_path, caplog):
    keep(tmp_path, RELU)
    paths = [keep(tmp_path, study="activation"), keep(tmp_path, study="se")]
    assert ids(tmp_path) == {TRIAL.run_id, RELU.run_id}
    write_json(paths[1] / RESULT, {**MEASURED, "epochs": 2, "top1": 80.4})  # one image in 250
    (paths[1] / CORRECT).unlink()
    assert ids(tmp_path) == {RELU.run_id}
    assert all(str(path / RESULT) in caplog.text for path in paths)
    assert find_run("se:mobilenet_v3_small:0", tmp_path).row["top1"] == 80.4  # compare shows both
    write_json(paths[1] / RESULT, {**MEASURED, "epochs": 2, "top1": 80.4, "revision": "ffffffffffff"})
    assert ids(tmp_path) == {TRIAL.run_id, RELU.run_id}  # results of other code


def test_runs_with_other_arguments_of_the_trainer_are_no_evidence_and_displace_none(tmp_path, caplog):
    plain, limited = keep(tmp_path, study="width"), {"limit_test_batches": 1}
    other = results_root(str(tmp_path), limited)
    keep(other, study="activation", trainer=limited, top1=80.1)  # sorts before `width`
    (other / "activation" / CORRECT).unlink(missing_ok=True)
    rows = load(tmp_path, plain=True)
    assert rows["top1"].tolist() == [80.0] and rows["run_id"].tolist() == [plain.name]
    assert "trained with limit_test_batches=1" in caplog.text
    assert set(load(tmp_path)["trainer"]) == {"", "limit_test_batches=1"}
    for folder in other.rglob("runs"):  # only a table, as people share it
        write_csv(folder.parent / RUNS, runs_table(study(tmp_path), other))
        shutil.rmtree(folder)
    assert load(tmp_path, plain=True)["top1"].tolist() == [80.0]
    several = results_root(str(tmp_path), {"devices": 2})
    keep(several, RELU, trainer={"devices": 2})
    assert set(load(tmp_path, plain=True)["run_id"]) == {TRIAL.run_id, RELU.run_id}  # the same run on more devices


def test_a_run_with_other_arguments_that_was_put_among_plain_ones_is_none_of_them(tmp_path, caplog):
    keep(tmp_path, RELU)
    folder = keep(tmp_path, trainer={"limit_test_batches": 1})
    assert find_finished(tmp_path, folder.name) is None
    assert set(runs_table(study(tmp_path), tmp_path)["run_id"]) == {RELU.run_id}
    assert "such results belong in trainer-" in caplog.text


@pytest.mark.parametrize("wrong", [{"top1": 250.0}, {"seed": "many"}, {"run_id": "../../elsewhere"}, {"study": ".."}])
def test_a_table_with_an_impossible_value_is_left_out(tmp_path, caplog, wrong):
    keep(tmp_path)
    table = load(tmp_path).assign(run_id=RELU.run_id)
    (tmp_path / "theirs").mkdir()
    table.assign(**wrong).to_csv(tmp_path / "theirs" / RUNS, index=False)
    assert ids(tmp_path) == {TRIAL.run_id}
    assert f"{tmp_path / 'theirs' / RUNS} is left out: " in caplog.text
    table.to_csv(tmp_path / "theirs" / RUNS, index=False)
    assert ids(tmp_path) == {TRIAL.run_id, RELU.run_id}


class Attack:
    """What a pickle does when it is loaded."""

    def __reduce__(self):
        return os.system, ("echo done > " + str(Path(os.environ["PWNED"])),)


DAMAGE = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "truncated": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "foreign": lambda path, whole: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "a list": lambda path, whole: path.write_text("[1, 2, 3]"),
    "nested": lambda path, whole: path.write_text("[" * 100_000),
    "a folder": lambda path, whole: path.mkdir(),
    "a pipe": lambda path, whole: os.mkfifo(path),
    "a device": lambda path, whole: path.symlink_to("/dev/zero"),
    "a pickle": lambda path, whole: path.write_bytes(pickle.dumps(Attack())),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [RESULT, CONFIG, CORRECT, IMAGES, METRICS, WEIGHTS, RUNS])
def test_whatever_lies_under_the_name_of_a_file_is_left_out_and_the_rest_goes_on(
    tmp_path, caplog, monkeypatch, name, damage
):
    monkeypatch.setenv("PWNED", str(tmp_path / "pwned"))
    good, bad = keep(tmp_path), keep(tmp_path, RELU)
    write_tables(study(tmp_path), tmp_path)
    for run in (good, bad):
        (run / METRICS).write_text("epoch,step,dead_kernels\n0,1,0.0\n")
    path = (tmp_path / "activation" if name == RUNS else bad) / name
    whole = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    DAMAGE[damage](path, whole)
    assert good.name in ids(tmp_path)
    assert find_run(good.name, tmp_path).run_id == good.name
    assert good.name in set(runs_table(study(tmp_path), tmp_path)["run_id"])
    if name != RUNS:
        deaths_table(tmp_path, "activation")
        write_tables(study(tmp_path), tmp_path)
        with pytest.raises(ConfigError) as error:
            load_predictor(bad)
        assert "weights_only" not in str(error.value)
    assert not (tmp_path / "pwned").exists()
    if name in (RESULT, CONFIG, CORRECT) and damage != "a folder":
        assert f"{bad}/" in caplog.text


@pytest.fixture
def shared(tmp_path) -> Path:
    """A results folder of a colleague, with tables of several studies."""
    for name in ("activation", "se"):
        shutil.copytree(PUBLISHED / name, tmp_path / name)
    return tmp_path


def test_programs_go_on_where_every_table_of_a_study_is_damaged(shared, capsys, caplog, monkeypatch):
    of_se = [claim for claim in evaluation.load_claims(evaluation.CLAIMS_FILE) if claim.study == "se"]
    monkeypatch.setattr(evaluation, "load_claims", lambda path: of_se)
    monkeypatch.setattr(evaluation, "PROFILES", ("quick", evaluation.DECIDING))
    tables = [shared / "claims.csv", *sorted((shared / "activation").glob("*.csv"))]
    for path, content in zip(tables, itertools.cycle(["", "a,b\n1,2\n", "\0\0", "study,cell,n\nx,y"]), strict=False):
        path.write_text(content)
    (shared / "activation/plan.yaml").write_text("[")
    assert claims_program.main([f"--out={shared}"]) == 0  # it writes the report too
    assert studies_program.main([f"--out={shared}"]) == 0
    assert "v3-se-accuracy" in capsys.readouterr().out
    table = pd.read_csv(shared / "claims.csv")
    assert (table.loc[table["id"] == "v3-se-accuracy", "n"] > 0).any()
    assert all(f"{path} is left out: " in caplog.text for path in tables if path.name in (RUNS, SUMMARY, LATENCY))
    assert f"{shared / 'activation/plan.yaml'} is left out: " in caplog.text


def test_a_run_of_a_later_version_is_left_out_of_tables_but_never_overwritten(tmp_path, caplog):
    keep(tmp_path)
    later = keep(tmp_path, RELU, format=99, mnet="9.9")
    assert ids(tmp_path) == {TRIAL.run_id}
    assert "has format 99, written by mnet 9.9" in caplog.text
    with pytest.raises(ConfigError, match="format 99"):
        read_result(later)


def test_numbers_of_digits_and_other_json_are_no_crash(tmp_path):
    folder = keep(tmp_path)
    keep(tmp_path, RELU)
    for text in ("1" * 10_000, '{"top1": 1e400}', '{"top1": ' + "9" * 400 + "}", json.dumps({"format": "2"})):
        (folder / RESULT).write_text(text)
        assert ids(tmp_path) == {RELU.run_id}
