"""Runs in a storage behind an fsspec URL (s3://bucket/mnet, gs://…, file:///…), for machines that share no folder.

    <url>/<study>/runs/<run_id>/    the same files as in a results folder, the result last

Each machine trains in its own scratch folder. It first downloads the files of the run, and uploads every checkpoint, so
that another machine can resume the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from mnet.errors import ConfigError
from mnet.files import write_atomic
from mnet.resources import scratch_folder
from mnet.studies.engines.attempt import or_default
from mnet.studies.runs.job import Job, RunJob, RunOptions
from mnet.studies.runs.progress import Progress, Report
from mnet.studies.runs.result import check_result
from mnet.studies.runs.store import (
    CONFIG,
    KEPT,
    METRICS,
    NETWORK,
    RESULT,
    RESUME,
    Result,
    lock,
    read_result,
    remove_leftovers,
)

log = logging.getLogger(__name__)

UNFINISHED = (CONFIG, NETWORK, METRICS, RESUME)
FINISHED = (*KEPT, RESULT)


def is_url(location: str) -> bool:
    """Whether this is an fsspec URL, not a folder."""
    return "://" in location


class Storage:
    """The runs behind a URL.

    Raises:
        ConfigError: No installed package can open such URLs.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url} cannot be opened: {error}") from None
        self.root = str(root).rstrip("/")

    def _folder(self, study: str, run_id: str) -> str:
        return f"{self.root}/{study}/runs/{run_id}"

    def find_finished(self, job: Job) -> str | None:
        """A study that has finished this run, preferably the job's own; None if there is none."""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            studies = {Path(path).name for path in self.files.ls(self.root, detail=False)}
            for study in sorted(studies, key=lambda name: (name != job.study, name)):
                with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                    check_result(json.loads(self.files.cat_file(f"{self._folder(study, job.run_id)}/{RESULT}")))
                    return study
        return None

    def pull(self, job: Job, study: str | None = None) -> None:
        """Download a run's files from the folder of `study` (None: the job's own), the result last."""
        source = self._folder(study or job.study, job.run_id)
        for name in dict.fromkeys((*UNFINISHED, *FINISHED)):
            try:
                content: bytes = self.files.cat_file(f"{source}/{name}")
            except FileNotFoundError:
                continue
            write_atomic(job.folder / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        if read_result(job.folder) is not None:
            remove_leftovers(job.folder)

    def push(self, job: Job) -> None:
        """Upload a run's files, the result last."""
        target = self._folder(job.study, job.run_id)
        finished = (job.folder / RESULT).exists()
        self.files.makedirs(target, exist_ok=True)
        for name in FINISHED if finished else UNFINISHED:
            with suppress(FileNotFoundError):
                self.files.pipe_file(f"{target}/{name}", (job.folder / name).read_bytes())
        if finished:
            with suppress(FileNotFoundError):
                self.files.rm_file(f"{target}/{RESUME}")


@dataclass(frozen=True)
class Synced:
    """A `run_job` that trains in a scratch folder of its machine and keeps the run in a storage."""

    url: str
    run_job: RunJob | None = None
    """None = `run.run_job`."""

    def __call__(self, job: Job, report: Report, /, **options: Unpack[RunOptions]) -> Result:
        """As `run.run_job`, but the run ends up in the storage only, and `job.root` is not used.

        Raises:
            Busy: Another process of this machine trains this run. Processes on other machines are not detected.
        """
        storage, local = Storage(self.url), replace(job, root=local_folder(self.url))
        with lock(local.root, f"{job.run_id}.synced"):
            shutil.rmtree(local.folder, ignore_errors=True)  # another machine may have continued the run since
            study = storage.find_finished(job)
            storage.pull(local, study)
            if study is not None and read_result(local.folder) is None:
                study = None
            if study is None:
                uploader = _Uploader(storage, local, report)
                try:
                    or_default(self.run_job)(local, uploader, **options)
                finally:
                    uploader.upload()
            if study != job.study:
                storage.push(local)
            result = read_result(local.folder)
            assert result is not None
            shutil.rmtree(local.folder, ignore_errors=True)
        return result


class _Uploader:
    """Uploads each new checkpoint when the run reports. A failed upload only costs what it would have saved."""

    def __init__(self, storage: Storage, job: Job, report: Report) -> None:
        self.storage, self.job, self.report = storage, job, report
        self._uploaded = self._stamp()

    def __call__(self, progress: Progress) -> object:
        self.upload()
        return self.report(progress)

    def upload(self) -> None:
        """Upload the checkpoint if it is new."""
        stamp = self._stamp()
        if stamp in (None, self._uploaded):
            return
        self._uploaded = stamp
        try:
            self.storage.push(self.job)
        except Exception as error:  # each storage has its own errors
            log.warning("the checkpoint of run %s cannot be uploaded now: %s", self.job.run_id, error)

    def _stamp(self) -> int | None:
        with suppress(FileNotFoundError):
            return (self.job.folder / RESUME).stat().st_mtime_ns
        return None


def local_folder(url: str) -> Path:
    """This machine's folder for the runs of a URL while they train.

    Raises:
        ConfigError: As `scratch_folder`.
    """
    return scratch_folder() / hashlib.sha256(url.encode()).hexdigest()[:12]
