"""Which seeds train together, and when a study ends."""

from dataclasses import replace

import ablate
from support.scripted_backend import ScriptedBackend

from mnet.studies import Trial
from mnet.studies.engines.packing import hand_out, makespan, packs, plan_packs
from mnet.studies.engines.session import Session
from mnet.studies.runs.job import Job, Outcome


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


def test_all_but_int8_runs_are_packed(tmp_path):
    trials = (Trial(precision="int8"), Trial(dataset="imagenette"), SMALL)
    assert [job.pack_size for job in plan_packs(study(tmp_path, *trials, seeds=2), 2, 2)] == [1, 2, 2] * 2


def test_without_a_size_it_packs_where_that_ends_first(tmp_path):
    calls, arithmetic = Trial(model="mobilenet_v3_large", width=0.35), Trial(model="mobilenet_v2")
    jobs = study(tmp_path, calls, arithmetic)
    assert {job.pack_size for job in plan_packs(jobs, 1) if job.trial.model == "mobilenet_v2"} == {1}
    assert {job.pack_size for job in plan_packs(jobs, 1) if job.trial.model != "mobilenet_v2"} == {3}
    alone = study(tmp_path, calls)
    assert {job.pack_size for job in plan_packs(alone, 3)} == {1}  # three workers: a pack would leave two idle
    assert {job.pack_size for job in plan_packs(jobs, 1, gpu=True)} == {32}
    assert makespan(plan_packs(jobs, 2), 2) <= makespan(jobs, 2)


DURATIONS = (9, 3, 5, 2, 8, 4, 6, 3)


def test_the_simulation_ends_when_a_session_does(tmp_path):
    jobs = study(tmp_path, SMALL, seeds=len(DURATIONS))
    finished = Outcome("finished", result={"top1": 1.0})
    backend = ScriptedBackend({seed: [[length - 1, finished]] for seed, length in enumerate(DURATIONS)}, places=3)
    Session(backend, lambda event: None, poll_s=1.0, locked_s=1.0).run(jobs)
    assert backend.now == hand_out(DURATIONS, 3)
    assert hand_out([3.0, 1.0, 1.0, 2.0], 2) == 4.0


def test_a_wrong_size_is_refused_before_anything_runs(tmp_path, capsys):
    for wrong in ("0", "many", "-1", "2.5"):
        assert ablate.main(["activation", f"--pack={wrong}", f"--out={tmp_path}"]) == 2
        assert "pack must be auto or a number of seeds, at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
