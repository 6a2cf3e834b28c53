"""What every engine does, on real processes: local ones, a Ray cluster on this machine, and submitit in Slurm's place.

Everything listens on the loopback only.
"""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.stand_ins import GUARD_S, PROGRESS, behave, stoppable

from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.engines import Engine, make_engine
from mnet.studies.engines.events import Event, Failed, Finished, Locked, Progressed, Retrying, Started
from mnet.studies.engines.ray import RayEngine
from mnet.studies.runs.job import Job
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import Result, read_failure, read_result

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux: 127.0.0.1 stays 127.0.0.1, so nothing else is bound
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"

UNSTABLE = {"train_seconds", "images_per_second", "finished", "revision"}
TRAINER = {"precision": "bf16-mixed"}
NO_RAY = "Ray is not installed: make EXTRAS=ray setup"
NO_SUBMITIT = "submitit is not installed: make EXTRAS=slurm setup"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """Let the processes of every engine import the stand-ins, and give Ray's time to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        patch.setattr("mnet.studies.engines.ray_cluster.CONNECT_SECONDS", GUARD_S)  # a busy machine imports Ray slowly
        yield


@pytest.fixture(scope="module")
def cluster(_importable):
    """A Ray cluster of one node with one CPU and one GPU that exists only in name. Tests may add nodes."""
    pytest.importorskip("ray", reason=NO_RAY)
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}  # a busy machine is not a dead one
    soon["worker_niceness"] = 0  # or its workers wait for minutes behind all other tests
    cluster = Cluster()
    try:
        cluster.node = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": 1}
        cluster.add_node(**cluster.node, num_gpus=1, _system_config=soon)
        yield cluster
    finally:
        nodes = cluster.list_all_nodes()
        cluster.shutdown()
        for node in nodes:
            assert not node.any_processes_alive()


def make(name: str, request, **settings) -> Engine:
    """A small engine of that name."""
    if name == "local":
        return make_engine("local", **{"workers": 2, **settings})
    if name == "ray":
        address = request.getfixturevalue("cluster").address
        return make_engine("ray", address=address, **{"cpus": 0.5, "gpus": 0.5, "retries": 0, **settings})
    pytest.importorskip("submitit", reason=NO_SUBMITIT)
    return make_engine("slurm", cluster="local", poll_s=0.2, **settings)


class Study(list):
    """A study's jobs and events."""

    def __init__(self, root: Path) -> None:
        trial = Trial(dataset="imagefolder", resolution=28, width=0.25)
        self.root, self.jobs = root, [Job(replace(trial, seed=seed), root, "study") for seed in range(5)]

    def of(self, seed: int) -> list[Event]:
        return [event for event in self if event.job == self.jobs[seed] and not isinstance(event, Progressed)]

    def kinds(self, seed: int) -> list[str]:
        return [type(event).__name__ for event in self.of(seed)]

    def attempts(self, seed: int) -> int:
        return len((self.root / f"attempts {seed}").read_text())


SLURM = pytest.param(
    "slurm", marks=pytest.mark.full("test_slurm.py has a job of Slurm, the loop is that of all engines")
)


@pytest.fixture(scope="class", params=["local", "ray", SLURM])
def engine(request) -> str:
    return request.param


class TestEveryEngine:
    @pytest.fixture(scope="class")
    def study(self, engine, request, tmp_path_factory) -> Study:
        study = Study(tmp_path_factory.mktemp(engine))
        for job in study.jobs:
            (study.root / f"folder {job.trial.seed}").write_text(str(job.folder))  # for `behave`
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"mnet.studies.engines.{engine}.LOCKED_SECONDS", 0.1)
            if engine == "slurm":
                submitit = pytest.importorskip("submitit", reason=NO_SUBMITIT)
                patch.setattr(submitit.Job, "_results_timeout_s", 1)
            settings = {"trainer": TRAINER, "checkpoint_s": 7.0, "run_job": behave}
            if engine == "slurm":
                settings["folder"] = study.root / "slurm"
            make(engine, request, **settings).run(study.jobs, study.append)
        return study

    def test_finishes_what_can_be_finished(self, study):
        for seed in (2, 4):
            assert isinstance(study.of(seed)[-1], Finished)
            assert study.of(seed)[-1].result["top1"] == read_result(study.jobs[seed].folder)["top1"] == 1.0

    def test_reports_every_job_from_start_to_end(self, study):
        assert study.kinds(4) == ["Started", "Finished"]
        ends = [event.job for event in study if isinstance(event, Finished | Failed)]
        assert sorted(job.trial.seed for job in ends) == [0, 1, 2, 3, 4]
        assert all(isinstance(study.of(seed)[0], Started) for seed in range(5))

    def test_reports_progress(self, study):
        assert Progressed(study.jobs[4], PROGRESS) in study

    def test_gives_the_reason_of_a_failure_in_one_line(self, study):
        assert study.of(0) == [Started(study.jobs[0]), Failed(study.jobs[0], "ValueError: no such layer")]
        assert read_failure(study.jobs[0].folder) == "ValueError: no such layer"
        assert study.attempts(0) == 1

    def test_survives_the_death_of_a_process(self, study, engine):
        reasons = {
            "local": "its process died (exit code 3)",
            "ray": "its node or its process was lost too often: WorkerCrashedError",
            "slurm": "its process died: ",
        }
        *_, failed = study.of(1)
        assert isinstance(failed, Failed)
        assert failed.reason.startswith(reasons[engine])
        assert engine != "slurm" or f"{study.root}/slurm" in failed.reason  # where its log is
        assert read_failure(study.jobs[1].folder) == failed.reason

    def test_waits_for_a_run_that_another_process_trains(self, study):
        assert study.kinds(2) == ["Started", "Locked", "Started", "Finished"]
        assert study.of(2)[1] == Locked(study.jobs[2])
        assert study.attempts(2) == 2

    def test_retries_a_trial_that_ran_out_of_memory_if_it_can_have_more(self, study, engine):
        if engine == "slurm":
            assert study.kinds(3) == ["Started", "Failed"]
        else:
            assert study.kinds(3) == ["Started", "Retrying", "Started", "Finished"]
            assert study.of(3)[1] == Retrying(study.jobs[3], "MemoryError: no more")
        if engine == "ray":
            assert study.of(3)[-1].result["gpus"] == 1  # a whole one

    def test_passes_its_settings_on(self, study, engine):
        result = study.of(4)[-1].result
        assert result["trainer"] == TRAINER
        assert result["checkpoint_s"] == 7.0
        assert result["threads"] == 1
        assert result["gpus"] == (0.5 if engine == "ray" else 0)


RAY_TOO = pytest.mark.full("the loop that stops is that of all engines, and local processes have it in each run")


@pytest.mark.parametrize(
    ("name", "settings"), [("local", {"workers": 1}), pytest.param("ray", {"cpus": 1}, marks=RAY_TOO)]
)
def test_ctrl_c_lets_the_running_trial_stop_at_a_checkpoint_and_starts_no_other(
    name, settings, request, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"mnet.studies.engines.{name}.STOP_SECONDS", GUARD_S)  # on a busy machine a step takes long

    def interrupt(event: Event) -> None:
        if isinstance(event, Progressed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(name, request, run_job=stoppable, **settings).run(Study(tmp_path).jobs[:2], interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["began 0", "stopped 0"]


def kill(node):
    """Kill a node as a power cut would: the raylet first, then all that it started."""
    raylet = node.all_processes["raylet"][0].process.pid
    family = [raylet, *(int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(path) == raylet)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)


def parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # the process has ended meanwhile
        return 0


@pytest.mark.full("the loop retries what a scripted backend loses, and Ray runs the contract of all engines")
def test_a_run_whose_node_is_killed_resumes_on_another_node_to_the_same_result(cluster, images, tiny_model, tmp_path):
    trial = Trial(dataset="imagefolder", data_dir=images, resolution=28, model=tiny_model, batch_size=16, epochs=2)
    trials, log = [replace(trial, seed=seed) for seed in range(2)], tmp_path / "log"
    log.mkdir()

    def train(job, report, /, **options):
        """Really train, both trials at once. The one on the second node hangs after it has uploaded a checkpoint, until
        the node is killed."""
        import ray

        from mnet.studies.runs import callbacks, run

        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        callbacks.REPORT_SECONDS = 0.0
        node = ray.get_runtime_context().get_node_id()

        def watched(progress):
            with (log / str(job.trial.seed)).open("a") as stream:
                stream.write(f"{node} {progress.step}\n")
            while len(list(log.iterdir())) < 2:  # until both have begun, each on its own node
                time.sleep(0.05)
            answer = report(progress)
            if os.environ.get("DOOMED") and progress.step == 3:
                (log / "ready").touch()
                time.sleep(GUARD_S)
            return answer

        return run.run_job(job, watched, **options)

    ray = pytest.importorskip("ray", reason=NO_RAY)
    ray.init(
        cluster.address, logging_level="ERROR", log_to_driver=False
    )  # attached to the node that will not be killed
    scratch = tmp_path / "second"
    scratch.mkdir()
    node = cluster.add_node(**cluster.node, env_vars={"DOOMED": "1", "TMPDIR": str(scratch)})

    def killer():
        while not (log / "ready").exists():
            time.sleep(0.1)
        kill(node)

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    study = Study(tmp_path / "results")
    study.jobs = [Job(trial, study.root, "tiny") for trial in trials]
    engine = RayEngine(cluster.address, storage=(tmp_path / "bucket").as_uri(), checkpoint_s=0.0, run_job=train)
    try:
        engine.run(study.jobs, study.append)
    finally:
        (log / "ready").touch()
        thread.join()
        ray.shutdown()
        cluster.remove_node(node, allow_graceful=False)

    steps = [[line.split() for line in (log / str(seed)).read_text().splitlines()] for seed in range(2)]
    (moved,) = [seed for seed in range(2) if len({name for name, _ in steps[seed]}) > 1]
    before = [int(step) for name, step in steps[moved] if name == steps[moved][0][0]]
    after = [int(step) for name, step in steps[moved] if name != steps[moved][0][0]]
    assert (before, after[0]) == ([1, 2, 3], 3)  # from the checkpoint of step 2
    assert study.kinds(moved) == ["Started", "Retrying", "Started", "Finished"]
    for seed, job in enumerate(study.jobs):
        undisturbed = replace(job, root=tmp_path / "undisturbed")
        assert same(read_result(job.folder)) == same(run_job(undisturbed)) == same(study.of(seed)[-1].result)
        for name in ("metrics.csv", "config.yaml", "weights.pt"):
            assert (job.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
        names = [sorted(path.name for path in folder.iterdir()) for folder in (job.folder, undisturbed.folder)]
        assert names[0] == names[1]


def same(result: Result | None) -> Result:
    assert result is not None
    return {name: value for name, value in result.items() if name not in UNSTABLE}


def test_a_trial_that_fits_on_no_node_of_the_cluster_is_an_error_before_any_trial(cluster, tmp_path):
    with pytest.raises(ConfigError, match=r"1 CPUs and 8 GPUs; the Ray cluster's nodes have 1 CPUs and 1 GPUs"):
        RayEngine(cluster.address, gpus=8).run(Study(tmp_path).jobs, print)
