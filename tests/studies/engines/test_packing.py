"""Which seeds are trained together, and when a study that is handed out ends."""

import time
from dataclasses import replace

import ablate
import pytest

from mnet.studies import Trial
from mnet.studies.engines.local import LocalEngine
from mnet.studies.engines.packing import hand_out, makespan, packs, plan_packs
from mnet.studies.runs.job import Job


def study(root, *trials: Trial, seeds: int = 3) -> list[Job]:
    return [Job(replace(trial, seed=seed), root, "study") for seed in range(seeds) for trial in trials]


def seeds_of(jobs) -> list[list[int]]:
    return [[job.trial.seed for job in pack] for pack in packs(jobs)]


SMALL, OTHER = Trial(), Trial(activation="relu")


def test_cells_are_cut_into_packs_of_equal_size(tmp_path):
    jobs = study(tmp_path, SMALL, OTHER, seeds=5)
    assert [pack[0] for pack in packs(plan_packs(jobs, 2, 1))] == jobs  # seed by seed, as they were given
    assert seeds_of(plan_packs(jobs, 2, 3)) == [[0, 2, 4], [0, 2, 4], [1, 3], [1, 3]]
    assert seeds_of(plan_packs(jobs, 2, 9)) == [[0, 1, 2, 3, 4]] * 2
    for pack in packs(plan_packs(jobs, 2, 3)):
        assert len({job.trial.activation for job in pack}) == 1


def test_only_images_in_memory_and_numbers_of_32_bits_are_packed(tmp_path):
    trials = (Trial(precision="int8"), Trial(dataset="imagenette"), SMALL)
    assert [job.pack_size for job in plan_packs(study(tmp_path, *trials, seeds=2), 2, 2)] == [1, 1, 2] * 2


def test_by_itself_it_packs_where_that_ends_first(tmp_path):
    calls, arithmetic = Trial(model="mobilenet_v3_large", width=0.35), Trial(model="mobilenet_v2")
    jobs = study(tmp_path, calls, arithmetic)
    assert {job.pack_size for job in plan_packs(jobs, 1) if job.trial.model == "mobilenet_v2"} == {1}
    assert {job.pack_size for job in plan_packs(jobs, 1) if job.trial.model != "mobilenet_v2"} == {3}
    alone = study(tmp_path, calls)
    assert {job.pack_size for job in plan_packs(alone, 3)} == {1}  # three workers: a pack would leave two idle
    assert {job.pack_size for job in plan_packs(jobs, 1, gpu=True)} == {16}
    assert makespan(plan_packs(jobs, 2), 2) <= makespan(jobs, 2)


def slept(job, report, **_):
    time.sleep(DURATIONS[job.trial.seed])
    return {"top1": 1.0}


DURATIONS = (0.9, 0.3, 0.5, 0.2, 0.8, 0.4, 0.6, 0.3)


def test_the_simulated_engine_ends_when_the_real_one_does(tmp_path):
    seen = []
    jobs = study(tmp_path, SMALL, seeds=len(DURATIONS))
    LocalEngine(run_job=slept, workers=3).run(jobs, lambda event: seen.append((event.kind, time.monotonic())))
    begun = min(when for kind, when in seen if kind == "started")
    ended = max(when for kind, when in seen if kind == "finished")
    assert ended - begun == pytest.approx(hand_out(DURATIONS, 3), rel=0.2)
    assert hand_out([3.0, 1.0, 1.0, 2.0], 2) == 4.0


def test_a_wrong_size_is_refused_before_anything_runs(tmp_path, capsys):
    for wrong in ("0", "many", "-1", "2.5"):
        assert ablate.main(["activation", f"--pack={wrong}", f"--out={tmp_path}"]) == 2
        assert "pack must be auto or a number of seeds from 1 on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
