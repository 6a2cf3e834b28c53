"""Estimates of a trial: rates recovered from timed runs, memory against measured peaks."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mnet.studies import Trial
from mnet.studies.engines.estimate import (
    DEFAULT_RATES,
    count_images,
    fit_rates,
    timed_runs,
    total_seconds,
    trial_bytes,
    trial_seconds,
    workload,
)

PUBLISHED = Path(__file__).parents[3] / "results/published/activation/runs.csv"
TRIALS = [
    *(Trial(width=width) for width in (0.25, 0.5, 1.0)),
    *(Trial(model="mobilenet_v1", width=width, resolution=size) for width in (0.25, 0.5) for size in (16, 28, 40)),
    *(Trial(model="mobilenet_v2", width=width, batch_size=batch) for width in (0.35, 1.0) for batch in (16, 96)),
    Trial(model="mobilenet_v1", width=0.25, separable=False),
]


def timed(rates, trials=TRIALS):
    works = [workload(trial) for trial in trials]
    return [(work, work.seconds(work.images, rates)) for work in works]


def test_a_trial_is_counted_by_hand():
    work = workload(Trial(model="mobilenet_v1", epochs=3, batch_size=50))
    assert work.images == 3 * 55_000
    assert work.evaluated == 4 * 5_000 + 10_000
    assert work.layers == 28  # V1 counts depthwise and pointwise separately, and the classifier: table 1
    assert work.terms(100)[2] == work.params * 2
    assert work.pixels == 70_000 * 28**2
    assert workload(Trial(dataset="imagenette")).pixels > 0  # on disk, in the system's cache


def test_without_timed_runs_the_quick_trial_takes_about_a_minute_and_others_in_proportion():
    small = trial_seconds(Trial())
    assert small == pytest.approx(60, rel=0.1)
    assert trial_seconds(Trial(epochs=20)) == pytest.approx(10 * small, rel=0.1)
    assert trial_seconds(Trial(model="mobilenet_v2")) == pytest.approx(
        2.33 * small, rel=0.1
    )  # measured, see DEFAULT_RATES
    assert fit_rates([]) == DEFAULT_RATES


def test_another_machines_speed_is_found_from_one_run():
    slow = [5 * rate for rate in DEFAULT_RATES]
    assert fit_rates(timed(slow, TRIALS[:1])) == pytest.approx(slow)


def test_another_machines_character_is_found_from_many_runs():
    """For example a GPU: expensive calls, cheap arithmetic."""
    rates = (1e-12, 2e-10, 1e-9, 2e-3)
    fitted = fit_rates(timed(rates))
    for work, seconds in timed(rates, [Trial(model="mobilenet_v3_large", width=0.75), Trial(resolution=20)]):
        assert work.seconds(work.images, fitted) == pytest.approx(seconds, rel=0.1)


def test_a_run_that_was_disturbed_does_not_move_the_rates():
    runs = timed(DEFAULT_RATES) * 3
    disturbed = [(runs[0][0], 10 * runs[0][1]), *runs[1:]]
    assert fit_rates(disturbed) == pytest.approx(DEFAULT_RATES)


def test_timed_runs_are_read_from_results_and_else_from_the_published_table(tmp_path):
    assert timed_runs(tmp_path) == []
    published, rows = timed_runs(tmp_path, PUBLISHED), pd.read_csv(PUBLISHED)
    assert [seconds for _, seconds in published] == rows["train_seconds"].tolist()
    assert published[3][0] == workload(Trial(activation=rows["activation"].iloc[3]))
    run = tmp_path / "mine/runs/abc"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**Trial(width=0.5).settings(), "trainer": {"devices": 1}}))
    (run / "result.json").write_text(json.dumps({"top1": 1.0, "train_seconds": 7.0}))
    for name, config, result in (("torn", "{", "{"), ("old", "width: 1", '{"top1": 1}'), ("odd", "wdth: 1", "{}")):
        broken = tmp_path / f"mine/runs/{name}"
        broken.mkdir()
        (broken / "config.yaml").write_text(config)
        (broken / "result.json").write_text(result)
    assert timed_runs(tmp_path, PUBLISHED) == [(workload(Trial(width=0.5)), 7.0)]


def test_a_shared_run_is_paid_once():
    assert total_seconds([Trial(), Trial(width=1.0), Trial(seed=1)]) == pytest.approx(2 * trial_seconds(Trial()))


def test_a_folders_images_are_work_once_they_are_there(images):
    assert count_images("imagefolder", images)[0] == 80
    assert count_images("imagefolder", images / "nowhere")[0] == 10_000
    assert workload(Trial(dataset="imagefolder", data_dir=images, resolution=28)).images == 2 * 72


MEASURED = [  # MiB, a fresh process each: one epoch of 600 images of 28 px, one thread, torch 2.14 on x86
    ({"width": 0.35}, 868),
    ({}, 904),
    ({"model": "mobilenet_v2"}, 1001),
    ({"total_stride": 8}, 1340),
    ({"total_stride": 8, "activation": "swish"}, 1383),
    ({"model": "mobilenet_v3_large", "total_stride": 8}, 1914),
    ({"model": "mobilenet_v1", "separable": False, "batch_size": 16}, 1327),
]


@pytest.mark.parametrize(("settings", "mib"), MEASURED, ids=lambda value: str(value))
def test_memory_is_estimated_above_the_measured_peak_and_by_less_than_a_third(settings, mib, images):
    trial = Trial(dataset="imagefolder", data_dir=images, resolution=28, **settings)
    assert 1 < trial_bytes(trial) / 2**20 / mib < 1.33


def test_the_studies_program_lists_every_study_with_its_state(tmp_path, capsys):
    import studies

    trial = Trial(model="mobilenet_v3_small")
    for study, name, content in (
        ("activation", "result.json", {"top1": 88.0}),
        ("se", "failure.json", {"reason": "NotFinite"}),
    ):
        run = tmp_path / study / "runs" / (trial if name == "result.json" else Trial(se=False)).run_id
        run.mkdir(parents=True)
        (run / name).write_text(json.dumps(content))
    assert studies.main([f"--out={tmp_path}", "--workers=2"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["activation"][:4] == ["activation", "4", "1/16", "0"]
    assert lines["activation"][-2:] == ["4", "partly"]
    assert lines["width"][2] == "1/12"  # shared with activation
    assert lines["se"][2:4] == ["1/15", "1"]
    assert lines["se"][-1] == "failed"
    assert lines["separable"][-1] == "new"
    assert lines["total"][2:4] == ["1/256", "1"]
    assert studies.main([f"--out={tmp_path}", "--seeds=1", "--profile=full"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["activation"][1:3] == ["5", "0/5"]
    for wrong, message in (
        ("--sedes=1", "Did you mean seeds"),
        ("--profile=ful", "Did you mean full"),
        ("--seeds=0", "0"),
    ):
        assert studies.main([wrong]) == 2
        assert message in capsys.readouterr().err
