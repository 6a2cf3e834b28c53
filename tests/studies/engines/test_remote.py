"""Runs in a storage behind a URL, for machines that share no folder."""

import shutil

import pytest

from mnet.errors import ConfigError
from mnet.files import write_json
from mnet.studies import Trial
from mnet.studies.engines.ray import RayEngine
from mnet.studies.engines.remote import Storage, Synced, is_url
from mnet.studies.runs.job import Job
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import RESULT, RESUME, Result, read_result

UNSTABLE = {"train_seconds", "images_per_second", "finished", "revision"}


def same(result: Result | None) -> Result:
    assert result is not None
    return {name: value for name, value in result.items() if name not in UNSTABLE}


@pytest.fixture
def tiny(images, tiny_model) -> Trial:
    return Trial(dataset="imagefolder", data_dir=images, resolution=28, model=tiny_model, batch_size=16, epochs=2)


def test_a_run_behind_a_url_resumes_on_another_machine_and_leaves_no_scratch(tiny, tmp_path, monkeypatch):
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
