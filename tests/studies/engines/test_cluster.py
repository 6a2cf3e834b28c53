"""The Ray engine on real clusters of this machine, and runs behind a URL. Everything listens on the loopback only."""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mnet.errors import ConfigError
from mnet.files import write_json
from mnet.studies import Trial
from mnet.studies.engines.ray import RayEngine
from mnet.studies.engines.remote import Storage, Synced, is_url
from mnet.studies.runs.job import Job
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import RESULT, RESUME, Result, read_failure, read_result

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux: 127.0.0.1 stays 127.0.0.1, so nothing else is bound
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"

GUARD_S = 300
"""After which a test that waits for another process gives up: no verdict, but an end to one that hangs."""
UNSTABLE = {"train_seconds", "images_per_second", "finished", "revision"}


def same(result: Result | None) -> Result:
    assert result is not None
    return {name: value for name, value in result.items() if name not in UNSTABLE}


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of one node with one CPU and one GPU that is only a number. Tests may add nodes."""
    pytest.importorskip("ray", reason="Ray is not installed: make EXTRAS=ray setup")
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}  # a busy machine is not a dead one
    cluster = Cluster()
    try:
        node = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": 1}
        cluster.add_node(**node, num_gpus=1, _system_config=soon)
        cluster.node = node
        yield cluster
    finally:
        nodes = cluster.list_all_nodes()
        cluster.shutdown()
        for node in nodes:
            assert not node.any_processes_alive()


@pytest.fixture
def tiny(images, tiny_model) -> Trial:
    return Trial(dataset="imagefolder", data_dir=images, resolution=28, model=tiny_model, batch_size=16, epochs=2)


class Told(list):
    """Keeps events, by seed."""

    def __call__(self, event):
        self.append(event)

    def kinds(self, seed):
        return [event.kind for event in self if event.job.trial.seed == seed and event.kind != "progress"]

    def last(self, seed):
        return [event for event in self if event.job.trial.seed == seed][-1]


def kill(node):
    """As a machine that loses its power: the raylet first, then all that it started."""
    raylet = node.all_processes["raylet"][0].process.pid
    family = [raylet, *(int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(path) == raylet)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)


def parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


SHARED = pytest.param("a shared folder", marks=pytest.mark.full("the other tests of Ray use a shared folder"))


@pytest.mark.parametrize("behind", [SHARED, "a url"])
def test_a_node_killed_in_the_middle_of_a_trial_changes_nothing_in_the_table(cluster, tiny, tmp_path, behind):
    trials = [replace(tiny, seed=seed) for seed in range(3)] + [replace(tiny, seed=3, lr=1e30)]
    where = tmp_path / "where"
    where.mkdir()

    def run_here(job, report, **options):
        """Real training. On the second node a trial hangs once it has a checkpoint, for the node to be killed."""
        import ray

        from mnet.studies.runs import callbacks, run

        callbacks.REPORT_SECONDS = 0.0
        node, seen = ray.get_runtime_context().get_node_id(), where / str(job.trial.seed)

        def slow(progress):
            with seen.open("a") as stream:
                stream.write(f"{node} {progress.step}\n")
            answer = report(progress)
            if os.environ.get("DOOMED") and progress.step == 3:
                assert (job.folder / "resume.ckpt").exists()
                report(progress)  # a url gets the checkpoint with the report before
                (where / "ready").touch()
                time.sleep(GUARD_S)
            return answer

        return run.run_job(job, slow, **options)

    scratch = tmp_path / "second"
    scratch.mkdir()
    node = cluster.add_node(**cluster.node, env_vars={"DOOMED": "1", "TMPDIR": str(scratch)})

    def killer():
        while not (where / "ready").exists():
            time.sleep(0.1)
        kill(node)

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    told, root = Told(), tmp_path / "results"
    storage = (tmp_path / "bucket").as_uri() if behind == "a url" else None
    engine = RayEngine(cluster.address, storage=storage, checkpoint_s=0.0, run_job=run_here)
    try:
        engine.run([Job(trial, root, "tiny") for trial in trials], told)
    finally:
        (where / "ready").touch()
        thread.join()
        cluster.remove_node(node, allow_graceful=False)

    written = [[line.split() for line in (where / str(seed)).read_text().splitlines()] for seed in range(3)]
    (steps,) = [lines for lines in written if len({name for name, _ in lines}) > 1]  # of the trial that moved
    first = [int(step) for name, step in steps if name == steps[0][0]]
    second = [int(step) for name, step in steps if name != steps[0][0]]
    assert (first, second[0]) == ([1, 2, 3], 3)  # on the other node, from the checkpoint of step 2
    for trial in trials[:3]:
        there, here = Job(trial, root, "tiny"), Job(trial, tmp_path / "undisturbed", "tiny")
        assert same(read_result(there.folder)) == same(run_job(here)) == same(told.last(trial.seed).content)
        for name in ("metrics.csv", "config.yaml"):
            assert (there.folder / name).read_bytes() == (here.folder / name).read_bytes()
        assert sorted(path.name for path in there.folder.iterdir()) == sorted(p.name for p in here.folder.iterdir())
    assert told.kinds(3)[-1] == "failed"
    assert read_failure(Job(trials[3], root, "tiny").folder) == told.last(3).content
    assert told.last(3).content.startswith("NotFinite: the loss is")


def test_whatever_becomes_of_a_trial_is_told_and_the_others_go_on(cluster, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mnet.studies.engines.ray.LOCKED_SECONDS", 0.5)
    asked = tmp_path / "asked"
    asked.mkdir()

    def stand_in(job, report, **options):
        import ray
        import torch

        from mnet.files import write_json
        from mnet.studies.runs.store import RESULT, Busy

        seed = job.trial.seed
        with (asked / str(seed)).open("a") as stream:
            stream.write("x")
        attempts = len((asked / str(seed)).read_text())
        if seed == 0:
            raise ValueError("no such\nlayer")
        if seed == 1 and attempts == 1:
            raise Busy("another process works on it")
        if seed == 2:
            os.kill(os.getpid(), 9)
        if seed == 3:
            ray.kill(report.place.board)
        threads = [torch.get_num_threads(), int(os.environ["OMP_NUM_THREADS"])]
        result = {"top1": 1.0, "threads": threads, "gpus": os.environ["CUDA_VISIBLE_DEVICES"], **options}
        write_json(job.folder / RESULT, result)
        return result

    told, trainer = Told(), {"precision": "bf16-mixed"}
    jobs = [Job(replace(tiny, seed=seed), tmp_path, "tiny") for seed in range(5)]
    engine = RayEngine(cluster.address, retries=1, trainer=trainer, checkpoint_s=7.0, run_job=stand_in)
    engine.run(jobs, told)
    result = {"top1": 1.0, "threads": [1, 1], "gpus": "", "trainer": trainer, "checkpoint_s": 7.0}
    for seed in (1, 3, 4):
        assert told.last(seed).kind == "finished"
        assert told.last(seed).content == read_result(jobs[seed].folder) == result
    for seed, reason in ((0, "ValueError: no such layer"), (2, "lost too often: WorkerCrashedError")):
        assert told.last(seed).kind == "failed"
        assert reason in told.last(seed).content
        assert told.last(seed).content == read_failure(jobs[seed].folder)
    assert [kind for kind in told.kinds(1) if kind != "started"] == ["locked", "finished"]
    assert [len((asked / str(seed)).read_text()) for seed in range(5)] == [1, 2, 2, 1, 1]


def test_two_trials_share_a_gpu_and_one_without_memory_is_tried_again_with_a_whole_one(cluster, tiny, tmp_path):
    def stand_in(job, report, **options):
        import ray
        import torch

        from mnet.files import write_json
        from mnet.studies.runs.store import RESULT

        gpu = ray.get_runtime_context().get_assigned_resources()["GPU"]
        (tmp_path / f"began {job.trial.seed}").touch()
        until = time.monotonic() + GUARD_S
        while not (tmp_path / f"began {1 - job.trial.seed}").exists():
            assert time.monotonic() < until, "nothing runs beside it"
            time.sleep(0.05)
        if job.trial.seed == 1 and gpu < 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result = {"top1": 1.0, "gpu": gpu, "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
        write_json(job.folder / RESULT, result)
        return result

    told = Told()
    jobs = [Job(replace(tiny, seed=seed), tmp_path, "tiny") for seed in (0, 1)]
    RayEngine(cluster.address, cpus=0.5, gpus=0.5, run_job=stand_in).run(jobs, told)
    assert told.last(0).content == {"top1": 1.0, "gpu": 0.5, "visible": "0"}
    assert told.last(1).content == {"top1": 1.0, "gpu": 1.0, "visible": "0"}
    assert told.kinds(1) == ["started", "retrying", "started", "finished"]


def test_ctrl_c_lets_the_running_trial_write_its_checkpoint_and_starts_no_other(cluster, tiny, tmp_path):
    def stand_in(job, report, **options):
        (tmp_path / f"began {job.trial.seed}").touch()
        until = time.monotonic() + GUARD_S
        while time.monotonic() < until:
            if report(1):
                (tmp_path / f"stopped {job.trial.seed}").touch()
                return {}
            time.sleep(0.05)
        return {}

    def interrupt(event):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RayEngine(cluster.address, run_job=stand_in).run(
            [Job(replace(tiny, seed=s), tmp_path, "t") for s in (0, 1)], interrupt
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["began 0", "stopped 0"]


def test_what_the_cluster_cannot_give_is_an_error_before_any_trial(cluster, tiny, tmp_path):
    jobs = [Job(tiny, tmp_path, "tiny")]
    with pytest.raises(ConfigError, match=r"1 CPUs and 8 GPUs; the Ray cluster's nodes have 1 CPUs and 1 GPUs"):
        RayEngine(cluster.address, gpus=8).run(jobs, print)
    for wrong, names in (({"gpus": 1.5}, "gpus"), ({"cpus": 0}, "cpus"), ({"retries": -1}, "retries")):
        with pytest.raises(ConfigError, match=names):
            RayEngine(**wrong)


def test_an_address_where_no_cluster_answers_is_named(tiny, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: make EXTRAS=ray setup")
    monkeypatch.setattr("mnet.studies.engines.ray.CONNECT_SECONDS", 1.0)
    jobs = [Job(tiny, tmp_path, "tiny")]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at 127.0.0.1:{port}: something listens there"):
            RayEngine(f"127.0.0.1:{port}").run(jobs, print)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at {address}: .*refused"):
            RayEngine(address).run(jobs, print)
    with pytest.raises(ConfigError, match=r"is host:port or ray://host:port, not 'http://head:8265/'"):
        RayEngine("http://head:8265/").run(jobs, print)


def test_without_ray_the_error_says_how_to_install_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnet\[ray\]'"):
        RayEngine().run([Job(tiny, tmp_path, "tiny")], print)


def test_a_run_behind_a_url_goes_on_on_another_machine_and_leaves_no_scratch(tiny, tmp_path, monkeypatch):
    class Lost(Exception):
        pass

    steps = []

    def lose(progress):
        steps.append(progress.step)
        if progress.step == 3:
            raise Lost

    url, job = (tmp_path / "bucket").as_uri(), Job(tiny, tmp_path / "nowhere", "tiny")
    monkeypatch.setattr("mnet.studies.runs.callbacks.REPORT_SECONDS", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "first"))
    with pytest.raises(Lost):
        Synced(url)(job, lose, checkpoint_s=0.0)
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "second"))
    result = Synced(url)(job, lambda progress: steps.append(progress.step))
    assert steps[:5] == [1, 2, 3, 3, 4]  # from the checkpoint of step 2
    assert same(result) == same(run_job(Job(tiny, tmp_path / "undisturbed", "tiny")))
    assert not job.root.exists()
    left = [path for path in (tmp_path / "second").rglob("*") if path.is_file()]
    assert {path.parent.name for path in left} == {".locks"}
    pulled = Job(tiny, tmp_path / "results", "tiny")
    Storage(url).pull(pulled)
    whole = tmp_path / "undisturbed" / "tiny" / "runs" / tiny.run_id
    assert sorted(path.name for path in pulled.folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert not list((tmp_path / "bucket").rglob("resume.ckpt"))


def test_a_run_that_another_study_finished_behind_the_url_is_copied_not_trained(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    url = f"memory://{tmp_path.name}"
    calls = []

    def stand_in(job, report):
        calls.append(job.study)
        write_json(job.folder / RESULT, {"top1": 50.0})
        return {"top1": 50.0}

    for study in ("first", "second", "second"):
        assert Synced(url, stand_in)(Job(tiny, tmp_path, study), print) == {"top1": 50.0}
    assert calls == ["first"]
    Storage(url).pull(Job(tiny, tmp_path, "second"))
    assert read_result(Job(tiny, tmp_path, "second").folder) == {"top1": 50.0}


def test_a_checkpoint_that_cannot_be_sent_does_not_end_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    down = []

    def stand_in(job, report):
        down.append(True)
        for step in range(3):
            write_json(job.folder / RESUME, step)
            report(step)
        down.clear()
        write_json(job.folder / RESULT, {"top1": 50.0})

    url = f"memory://{tmp_path.name}"
    push = Storage.push

    def failing(self, job):
        if down:
            raise RuntimeError("the storage is down")
        push(self, job)

    monkeypatch.setattr(Storage, "push", failing)
    assert Synced(url, stand_in)(Job(tiny, tmp_path, "tiny"), print) == {"top1": 50.0}


@pytest.mark.parametrize("url", ["sx3://bucket/mnet", "ftpx://host"])
def test_a_url_that_nothing_opens_is_refused_at_once(url):
    assert is_url(url)
    assert not is_url("results")
    with pytest.raises(ConfigError, match=f"{url} cannot be opened: Protocol not known"):
        RayEngine(storage=url)
