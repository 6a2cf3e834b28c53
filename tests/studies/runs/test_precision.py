"""int8 runs: they start from the fp32 run of their seed, see training images alone, and are compared with it."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from mnet import ConfigError
from mnet.quantization import load, prepare
from mnet.studies import Cell, Study, Trial
from mnet.studies.options import trial_from
from mnet.studies.report.figures import write_figures
from mnet.studies.results.effects import ALL, effects_table
from mnet.studies.results.tables import write_tables
from mnet.studies.runs.images import load_data
from mnet.studies.runs.job import Job
from mnet.studies.runs.prepare import calibration_images
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.run import run_job, run_trial
from mnet.studies.runs.store import Busy, find_finished, lock, read_correct, read_result
from mnet.tasks.classification import ImageClassifier, QuantizedClassifier
from mnet.training import recipe
from mnet.training.recipes import quantization_aware

PRECISIONS = ("fp32", "int8", "int8-qat")
FILES = ["config.yaml", "correct.npz", "images.json", "metrics.csv", "result.json", "weights.pt"]


@pytest.fixture(scope="module")
def trial(images) -> Trial:
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "width": 0.25, "lr": 0.05}
    return Trial(**settings, model="mobilenet_v1", batch_size=8, epochs=6, seed=5)


def test_precision_is_part_of_the_run_id_beside_the_fp32_runs_own_settings():
    fp32, int8, qat = (Trial(precision=precision) for precision in PRECISIONS)
    assert fp32.run_id == Trial().run_id == int8.in_float().run_id == qat.in_float().run_id
    assert len({trial.run_id for trial in (fp32, int8, qat)}) == 3
    for precision in PRECISIONS:  # int8 is trained alike in both, but from different networks
        assert Trial(precision=precision, epochs=2).run_id != Trial(precision=precision, epochs=3).run_id
    with pytest.raises(
        ConfigError, match=r"unknown precision 'int4'; one of fp32, tf32, bf16, int8, int8-qat\. Did you mean int8"
    ):
        trial_from({"precision": "int4"})


def test_training_on_is_short_and_slow_and_ends_at_rest():
    full = quantization_aware(recipe("full"))
    assert (full.epochs, full.lr, full.weight_decay, full.ema) == (4, pytest.approx(0.02), 0, 0)
    assert quantization_aware(recipe("quick")).epochs == 1
    assert Trial(precision="int8").full_recipe().epochs == 0


def test_ranges_are_seen_on_training_images_alone_the_same_for_a_seed(trial):
    data = load_data(trial, trial.full_recipe())
    training = torch.cat([batch for batch, _ in data.batches("train")])
    seen = calibration_images(data, 5)
    assert len(seen) == 64  # one whole batch: the folder has fewer than 512 images
    assert all((image == training).all(dim=(1, 2, 3)).any() for image in seen)
    assert torch.equal(seen, calibration_images(data, 5))
    assert not torch.equal(seen, calibration_images(data, 6))


def test_ranges_widen_in_the_first_part_of_training_and_never_in_validation(trial):
    data = load_data(trial, trial.full_recipe())
    network = trial.network(data.num_classes, data.in_channels)
    model = ImageClassifier(network, trial.full_recipe())
    prepared = prepare(model.net, calibration_images(data, 5), training=True)
    model = QuantizedClassifier(network, trial.full_recipe(), prepared)

    def widened() -> bool:
        before = {name: value.clone() for name, value in prepared.state_dict().items() if name.endswith("max_val")}
        with torch.no_grad():
            prepared(100 * torch.ones(2, data.in_channels, 28, 28))
        return any(not torch.equal(prepared.state_dict()[name], value) for name, value in before.items())

    for step, wide in ((0, True), (6, True), (7, False), (9, False)):
        model.trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=10)
        model.on_train_batch_start(None, 0)
        assert widened() == wide, step
        model.on_validation_start()
        assert not widened()


@pytest.fixture(scope="module")
def finished(trial, tmp_path_factory):
    """A study of three precisions, run from the last to the first."""
    root = tmp_path_factory.mktemp("results")
    for precision in reversed(PRECISIONS):
        run_job(Job(replace(trial, precision=precision), root, "tiny"))
    return root


def test_an_int8_run_trains_its_fp32_run_once_and_leaves_the_same_files(trial, finished):
    folders = {p: Job(replace(trial, precision=p), finished, "tiny").folder for p in PRECISIONS}
    assert sorted((finished / "tiny/runs").iterdir()) == sorted(folders.values())
    for precision, folder in folders.items():
        assert sorted(path.name for path in folder.iterdir()) == FILES
        assert yaml.safe_load((folder / "config.yaml").read_text())["precision"] == precision
        result = read_result(folder)
        assert 100 * read_correct(folder).mean() == pytest.approx(result["top1"])
        assert result["val_top1"] > 0
    fp32, int8, qat = (read_result(folder) for folder in folders.values())
    assert (fp32["epochs"], int8["epochs"], qat["epochs"]) == (6, 0, 1)
    assert len({result["test_loss"] for result in (fp32, int8, qat)}) == 3
    assert int8["test_loss"] == pytest.approx(fp32["test_loss"], abs=0.1)


@pytest.mark.parametrize("precision", ["int8", "int8-qat"])
def test_the_weights_of_an_int8_run_are_the_network_that_was_tested(trial, finished, precision):
    folder = Job(replace(trial, precision=precision), finished, "tiny").folder
    data, net = load_data(trial, trial.full_recipe()), load(folder / "weights.pt")
    with torch.no_grad():
        right = [net(images).argmax(1) == labels for images, labels in data.test_dataloader()]
    assert torch.cat(right).tolist() == read_correct(folder).tolist()


def test_a_qat_run_stopped_in_the_middle_goes_on_to_the_same_numbers(trial, finished, tmp_path, monkeypatch):
    qat = replace(trial, precision="int8-qat")
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    start = find_finished(finished, trial.run_id)
    with pytest.raises(Stopped):
        run_trial(qat, tmp_path, lambda progress: progress.step >= 4, start=start)
    assert (tmp_path / "resume.ckpt").exists()
    again = run_trial(qat, tmp_path, start=start)
    whole = read_result(Job(qat, finished, "tiny").folder)
    assert {k: again[k] for k in ("top1", "test_loss", "val_loss")} == {
        k: whole[k] for k in ("top1", "test_loss", "val_loss")
    }


def test_an_int8_run_waits_for_whoever_trains_its_fp32_run(trial, tmp_path):
    with lock(tmp_path, trial.run_id), pytest.raises(Busy, match=trial.run_id):
        run_job(Job(replace(trial, precision="int8"), tmp_path, "tiny"))


def test_an_int8_run_on_several_devices_is_refused_before_anything_is_trained(trial, tmp_path):
    with pytest.raises(ConfigError, match=r"precision=int8 needs one device, not trainer\.devices=2; give 1"):
        run_job(Job(replace(trial, precision="int8"), tmp_path, "tiny"), trainer={"devices": 2})
    assert not list(tmp_path.iterdir())


def cell(name, **options):
    return Cell(name, (Trial(),), options)


CROSSED = Study(
    "crossed",
    "",
    ("precision", "variant"),
    tuple(cell(f"{p} {v}", precision=p, variant=v) for p in ("fp32", "int8", "int8-qat") for v in ("a", "b")),
)
TOPS = {
    "fp32 a": (90, 88, 89),
    "int8 a": (89, 87.5, 88),
    "int8-qat a": (90, 88, 89.5),
    "fp32 b": (80, 82, 81),
    "int8 b": (78, 79, 78.5),
    "int8-qat b": (80, 81),
}


def test_effects_are_those_of_a_value_within_a_variant_paired_by_seed():
    runs = pd.DataFrame(
        [{"cell": name, "seed": seed, "top1": top1} for name, tops in TOPS.items() for seed, top1 in enumerate(tops)]
    )
    table = effects_table(CROSSED, runs.sample(frac=1, random_state=0), "precision")
    by = table.set_index(["value", "against", "variant"])
    assert list(dict.fromkeys(zip(table["value"], table["against"], strict=True))) == [
        ("int8", "fp32"),
        ("int8-qat", "fp32"),
        ("int8-qat", "int8"),
    ]
    drop_a, drop_b = by.loc[("int8", "fp32", "a")], by.loc[("int8", "fp32", "b")]
    assert (drop_a["n"], drop_a["delta"]) == (3, pytest.approx(-2.5 / 3))
    assert drop_a["low"] < drop_a["delta"] < drop_a["high"]
    assert table.loc[table["beyond"].notna(), "variant"].unique().tolist() == ["b"]
    assert (drop_b["delta"], drop_b["beyond"]) == pytest.approx((-2.5, -2.5 + 2.5 / 3))
    assert by.loc[("int8", "fp32", ALL), "delta"] == pytest.approx((-1.5 - 1.75 - 1.75) / 3)
    assert by.loc[("int8-qat", "int8", "b"), "n"] == by.loc[("int8-qat", "int8", ALL), "n"] == 2
    with pytest.raises(ConfigError, match="unknown option that the study varies 'kernel'; one of precision, variant"):
        effects_table(CROSSED, runs, "kernel")


def test_a_study_that_varies_precision_has_a_table_and_a_figure_of_its_effects(trial, finished):
    cells = [Cell(p, (replace(trial, precision=p),), {"precision": p}) for p in PRECISIONS]
    study = Study("tiny", "", ("precision",), tuple(cells))
    tables = write_tables(study, finished)
    write_figures(study, tables, finished)
    written = pd.read_csv(finished / "tiny/effects.csv")
    assert list(written["variant"]) == ["mobilenet_v1"] * 3
    assert list(written["delta"]) == pytest.approx(list(tables.effects["delta"]))
    with Image.open(finished / "tiny/tiny-effects.png") as figure:
        assert min(figure.size) > 200
        assert len(figure.convert("RGB").getcolors(1 << 24)) > 10
