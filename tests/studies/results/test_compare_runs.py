"""Two runs compared: settings, code, environment and results."""

import subprocess
from dataclasses import replace

import compare as program
import numpy as np
import pandas as pd
import pytest

from mnet.errors import ConfigError
from mnet.files import write_json, write_yaml
from mnet.studies import load
from mnet.studies.results.compare import compare, pair_images
from mnet.studies.results.lookup import find_run
from mnet.studies.results.revisions import history_between
from mnet.studies.runs.store import CONFIG, RESULT, run_folder, write_correct
from mnet.studies.trial import Trial

PAPER = Trial(width=0.5)
RELU = replace(PAPER, activation="relu", epochs=5, recipe="full")
RESULTS = {
    **{"top1": 80.0, "top5": 99.0, "test_loss": 0.5, "val_top1": 81.0, "val_loss": 0.4, "resolution": 28, "epochs": 2},
    **{"params": 1000, "madds": 2000, "train_seconds": 60.0, "images_per_second": 100.0},
    **{"device": "a processor", "threads": 1, "torch": "2.14.1", "mnet": "0.1.0", "revision": "0123456789ab"},
}


def keep(root, trial: Trial, right: int = 80, trainer: object = None, study: str = "activation", **more: object):
    """A finished run as mnet leaves it: `right` of 100 test images, the last ones."""
    folder = run_folder(root, study, trial.run_id)
    write_yaml(folder / CONFIG, trial.settings() | ({"trainer": trainer} if trainer else {}))
    write_json(folder / RESULT, {**RESULTS, "top1": float(right), "format": 2, **more})
    write_correct(folder, np.arange(100) >= 100 - right)
    return folder


@pytest.fixture
def root(tmp_path):
    keep(tmp_path, PAPER)
    keep(tmp_path, RELU, 70, epochs=5, params=900, train_seconds=30.0, torch="2.15.0", revision="ba9876543210+")
    keep(tmp_path, replace(PAPER, seed=1), 82)
    return tmp_path


def test_the_program_prints_every_difference(root, capsys):
    names = (f"activation:{find_run(run.run_id, root).row['cell']}:0" for run in (PAPER, RELU))
    assert program.main([*names, f"--out={root}"]) == 0
    message = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "activation paper relu",
        "recipe quick full",
        "epochs 2 5",
        "params 1,000 900",
        "warmup 0.3 0.1",
        "weight_decay 0.0001 0.0005",
        "revision 0123456789ab ba9876543210+",
        "0123456789ab is not in the history of this repository",
        "torch 2.14.1 2.15.0",
        "top1 80.00 70.00 -10.00 points",
        "train_seconds 60.0 30.0 -30.0 s",
    ):
        assert line in message
    (images,) = (line for line in message if line.startswith("the same 100 test images"))
    assert "only A right 10, only B 0; B - A -10.00 points [-16." in images
    assert not [line for line in message if line.startswith(("seed ", "top5 99.00 99.00 +0.01", "width "))]
    assert "Two single runs also differ by chance" in message[-2]


def test_a_run_and_a_copy_of_it_are_the_same_run(root):
    keep(root, PAPER, study="se")
    copy = root / "se" / "runs" / PAPER.run_id
    result = compare(find_run(PAPER.run_id[:6], root), find_run(str(copy), root))
    assert (result.same, result.conclusion) == (True, ("A and B are the same run.",))


def test_runs_that_differ_only_in_the_seed_are_reported_as_such(root):
    a, b = (find_run(replace(PAPER, seed=seed).run_id, root) for seed in (0, 1))
    result = compare(a, b)
    assert [one.name for one in result.settings] == ["seed"]
    assert result.conclusion[0].startswith("Only the seed differs:")
    assert result.history is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train_seconds": 61.0}, "the same settings with the same seed, trained twice, with the same results."),
        ({"right": 81}, "the same settings with the same seed, trained twice, with different results."),
        ({"trainer": {"precision": "bf16-mixed"}}, "Two single runs also differ by chance"),
    ],
)
def test_the_same_settings_trained_twice_are_distinguished_from_another_computation(root, more, message):
    again = keep(root / "again", PAPER, **more)
    result = compare(find_run(PAPER.run_id, root), find_run(str(again), root))
    assert message in result.conclusion[0]
    assert [one.name for one in result.settings] == (["trainer.precision"] if "trainer" in more else [])


def test_images_are_compared_only_if_they_are_the_same(root, tmp_path):
    trials = [replace(PAPER, dataset="imagefolder", images=name, resolution=28) for name in "ab"]
    runs = [find_run(str(keep(root / "own", trial)), root) for trial in trials]
    assert compare(*runs).images is None
    assert compare(runs[0], runs[0]).images.count == 100
    fashion = find_run(PAPER.run_id, root)
    assert compare(fashion, runs[0]).images is None
    (fashion.folder / "correct.npz").unlink()
    assert compare(fashion, find_run(RELU.run_id, root)).images is None


def test_interval_and_p_of_a_published_table():
    """Bentur et al. 2009, table V of Fagerland, Lydersen and Laake 2014: 21 children, 1 and 7 of them discordant."""
    a, b = np.zeros(21, bool), np.zeros(21, bool)
    a[:2], b[0], b[2:9] = True, True, True
    result = pair_images(b, a)
    assert (result.only_a, result.only_b) == (7, 1)
    assert (result.delta, result.low, result.high) == pytest.approx((-28.57, -50.84, -1.34), abs=0.005)
    assert result.p == pytest.approx(2 * (1 + 8) / 2**8)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("activaton:relu:0", "unknown study 'activaton'; one of activation. Did you mean activation?"),
        ("activation:rel:0", "unknown cell 'rel'; one of .*activation=relu"),
        (f"{PAPER.run_id[:-2]}zz", f"unknown run .* among the 3 in .* Did you mean {PAPER.run_id}?"),
        ("nowhere/at/all/or/else", "no folder nowhere/at/all/or/else"),
        ("", "expected study:cell:seed, a run id"),
    ],
)
def test_an_unknown_run_is_one_error_with_the_nearest_spelling(name, reason, root, capsys):
    assert program.main([PAPER.run_id, name, f"--out={root}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(ConfigError, match=reason.replace("?", r"\?")):
        find_run(name, root)


def test_runs_of_the_folder_come_before_published_ones_of_the_same_name(root, tmp_path):
    row = load(root).query("cell == cell and seed == 0").iloc[[0]].assign(cell="paper")
    for study, top1 in (("activation", 88.0), ("longer/activation", 99.0)):
        folder = root / "published" / study
        folder.mkdir(parents=True)
        row.assign(study="activation", run_id=f"{top1:.0f}", top1=top1).to_csv(folder / "runs.csv", index=False)
    assert find_run("activation:paper:0", root).row["top1"] == 88.0  # from the quick profile
    row.assign(top1=77.0).to_csv(root / "activation/runs.csv", index=False)
    assert find_run("activation:paper:0", root).row["top1"] != 88.0
    longer = f"{root}/published/longer/activation:paper:0"
    assert find_run(longer, root).row["top1"] == 99.0


def test_a_name_that_several_runs_have_is_refused_with_their_ids(root):
    with pytest.raises(ConfigError, match=f"matches several runs; .*{PAPER.run_id}"):
        find_run(str(root), root)


def test_a_published_run_is_compared_with_a_run_of_the_folder(root, tmp_path):
    published = tmp_path / "published" / "activation"
    published.mkdir(parents=True)
    shown = {"study": "activation", "run_id": PAPER.run_id, "cell": "half", "model": PAPER.model, "width": 0.5}
    trained = {
        "dataset": "fashion_mnist",
        "resolution": 28,
        "recipe": "quick",
        "epochs": 2,
        "batch_size": 96,
        "lr": 0.2,
    }
    pd.DataFrame([{**shown, **trained, "seed": 0, "top1": 79.5, "torch": "2.10.0"}]).to_csv(
        published / "runs.csv", index=False
    )
    result = compare(find_run(f"{published}:half:0", root), find_run(PAPER.run_id, root))
    assert [(one.name, one.delta) for one in result.results] == [("top1", 0.5)]
    assert [(one.name, one.a) for one in result.environment if one.a] == [("torch", "2.10.0")]
    assert not result.settings


@pytest.fixture
def repository(tmp_path):
    """A repository with three commits, of which the third changes no code of mnet, and their hashes."""
    folder, revisions = tmp_path / "code", []
    (folder / "mnet").mkdir(parents=True)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        return subprocess.run(
            ["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    for name, text in (("mnet/a.py", "1\n"), ("mnet/a.py", "2\n"), ("README.md", "3\n")):
        (folder / name).write_text(text)
        git("add", ".")
        git("commit", "-qm", text)
        revisions.append(git("rev-parse", "--short=12", "HEAD").strip())
    return folder, revisions


def test_git_counts_the_commits_and_lists_the_files_of_mnet(repository):
    folder, (first, second, third) = repository
    result = history_between(third, f"{first}+", folder)
    assert (result.only_a, result.only_b) == (2, 0)
    assert result.files[0].split() == ["mnet/a.py", "|", "2", "+-"]
    assert len(result.files) == 2
    assert result.note == f"{first}+: the code was changed after that commit"
    assert history_between(second, third, folder).files == ()


def test_the_note_explains_why_there_is_no_history(repository, monkeypatch, tmp_path):
    folder, (first, *_) = repository
    assert "not in the history" in history_between(first, "f" * 12, folder).note
    assert history_between(first, f"--output={tmp_path}/x", folder).note.endswith("is not a revision")
    assert "one of the runs has no revision" in history_between(first, "", folder).note
    assert "git cannot compare the code" in history_between(first, "f" * 12, tmp_path).note
    monkeypatch.setenv("PATH", "")
    assert "git is not installed" in history_between(first, "f" * 12, folder).note
