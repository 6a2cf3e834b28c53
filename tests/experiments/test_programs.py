"""The programs as a user calls them, on a small folder of images.

Tests call a program's `main` in this process: a new one takes longer to import torch and Lightning than to train.
test_damage.py and test_kill.py run ablate.py in separate processes, and test_wandb.py runs train.py.
"""

import importlib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import ablate
import pandas as pd
import pytest
import train
import wandb
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study(images, tiny_model, tmp_path_factory):
    """The arguments of a small activation study, the folder that a first call has filled, and that call's output."""
    out = tmp_path_factory.mktemp("results")
    arguments = ("activation", "--dataset=imagefolder", f"--data_dir={images}", "--resolution=28")
    arguments += (f"--model={tiny_model}", "--batch_size=16", "--activation=paper,relu", "--seeds=2", f"--out={out}")
    arguments += ("--pack=1",)  # train.py trains without packs, to the same bits
    with redirect_stdout(StringIO()) as printed:
        assert ablate.main(arguments) == 0
    return arguments, out / "activation", printed.getvalue()


def test_a_study_ends_with_its_table_its_files_and_its_plot(study):
    _, folder, printed = study
    assert "[4/4]" in printed
    runs, summary = pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "summary.csv")
    assert sorted(zip(runs["cell"], runs["seed"], strict=True)) == [
        ("paper", 0),
        ("paper", 1),
        ("relu", 0),
        ("relu", 1),
    ]
    assert set(runs["activation"]) == {"paper", "relu"}
    assert list(summary["cell"]) == ["paper", "relu"]
    means = runs.groupby("cell")["top1"].mean()
    assert summary.set_index("cell").loc["relu", "delta"] == pytest.approx(means["relu"] - means["paper"])
    assert (folder / "activation.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (folder / "report.html").read_text()
    for part in ("runs.csv", "summary.csv", "report.html", "95% interval", "paper", "relu"):
        assert part in printed


def test_a_repeated_study_trains_nothing(study, capsys):
    arguments, folder, _ = study
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    assert ablate.main([*arguments, "--report=false"]) == 0
    assert "4 already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")} == before


def test_a_run_that_two_studies_share_is_trained_once(study, tmp_path, capsys):
    arguments, folder, _ = study
    copy = tmp_path / "copy.yaml"
    copy.write_text((ROOT / "experiments/sweeps/activation.yaml").read_text())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    settings = [argument for argument in arguments[1:] if not argument.startswith("--activation")]
    settings += ["--activation=paper,relu,relu6"]
    assert ablate.main([str(copy), "activation", *settings, "--report=false"]) == 0
    assert "6 cells, 6 runs, 4 already finished" in capsys.readouterr().out
    copied, activation = (pd.read_csv(folder.parent / name / "runs.csv") for name in ("copy", "activation"))
    timing = ["study", "train_seconds", "images_per_second"]
    pd.testing.assert_frame_equal(copied.drop(columns=timing), activation.drop(columns=timing))
    assert len(copied) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_arguments_of_the_trainer_make_another_run(study):
    arguments, folder, _ = study
    assert ablate.main([*arguments, "--trainer.limit_train_batches=1", "--report=false"]) == 0
    (other,) = folder.parent.glob("trainer-*/activation/runs.csv")
    both = pd.read_csv(other).merge(pd.read_csv(folder / "runs.csv"), on="run_id", suffixes=("_other", "_plain"))
    assert len(both) == 4
    assert (both["test_loss_other"] != both["test_loss_plain"]).all()


@pytest.fixture
def wandb_offline(monkeypatch):
    """W&B reads its mode from the environment, and keeps it until it is torn down."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("wandb_offline")
def test_train_gives_the_numbers_of_the_study_and_logs_to_wandb_offline(study, tmp_path, capsys):
    _, folder, _ = study
    run = next(folder.glob("runs/*"))
    assert train.main([f"--config={run / 'config.yaml'}", f"--out={tmp_path}", "--wandb=on"]) == 0
    repeated = yaml.safe_load((tmp_path / "train/runs" / run.name / "result.json").read_text())
    original = yaml.safe_load((run / "result.json").read_text())
    for name in ("top1", "test_loss", "val_loss", "params"):
        assert repeated[name] == original[name]
    assert "logging offline" not in capsys.readouterr().out  # WANDB_MODE asked for it
    assert list(tmp_path.glob(f"train/runs/{run.name}/wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ablate.py", "activaton"), "unknown study 'activaton'; one of activation, bottleneck,"),
        (("ablate.py", "activaton"), "Did you mean activation?"),
        (("ablate.py", "activation", "--variant=se=flase"), "in variant 'se=flase'"),
        (("ablate.py", "hswish-placement", "--activation=relu"), "cannot be set too"),
        (("ablate.py", "activation", "--engine=rya"), "Did you mean ray?"),
        (("ablate.py", "activation", "--seeds=0"), "seeds must be above 0"),
        (("ablate.py", "activation", "--trainer.devics=2"), "Did you mean devices?"),
        (("ablate.py", "activation", "--modle=mobilenet_v2"), "Did you mean model?"),
        (("ablate.py", "activation", "--model=mobilenet_v4"), "unknown model 'mobilenet_v4'"),
        (("ablate.py", "activation", "--activation=rleu"), "Did you mean relu?"),
        (("ablate.py", "activation", "--epochs=none"), "epochs must be a whole number, not 'none'"),
        (("ablate.py", "activation", "--profile=ful"), "Did you mean full?"),
        (("ablate.py", "activation", "--dataset=cifar"), "Did you mean cifar10"),
        (("ablate.py", "activation", "--dataset=cifar10", "--data_dir=nowhere"), "nowhere"),
        (("ablate.py", "activation", "--dataset=imagefolder", "--data_dir=nowhere"), "nowhere"),
        (("train.py", "--activation=h-swsh"), "Did you mean hswish?"),
        (("train.py", "--sead=1"), "Did you mean se"),
        (("train.py", "--shallow=true"), "five 14x14x512 blocks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_gets_one_clear_error_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program = importlib.import_module(arguments[0].removesuffix(".py"))
    assert program.main(arguments[1:]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.rglob("*"))
