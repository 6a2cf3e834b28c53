"""Runs kept behind an fsspec URL (s3://bucket/mnet, gs://…, file:///…), for machines that share no folder.

    <url>/<study>/runs/<run_id>/    the same files as in a results folder, the result last

A machine trains in a scratch folder of its own, fetches what there is of a run first, and sends every checkpoint, so
that the run of a machine that was lost goes on elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from mnet.errors import ConfigError
from mnet.files import write_atomic
from mnet.studies.engines.attempt import or_default
from mnet.studies.runs.job import Job, RunJob, RunOptions
from mnet.studies.runs.store import (
    CONFIG,
    CORRECT,
    EXAMPLES,
    FAILURE,
    METRICS,
    NETWORK,
    RESULT,
    RESUME,
    WEIGHTS,
    Result,
    is_result,
    lock,
    read_result,
)

if TYPE_CHECKING:
    from mnet.studies.runs.progress import Progress, Report

log = logging.getLogger(__name__)

UNFINISHED = (CONFIG, NETWORK, METRICS, RESUME)
FINISHED = (CONFIG, NETWORK, METRICS, CORRECT, EXAMPLES, WEIGHTS, RESULT)


def is_url(place: str) -> bool:
    """Whether a place is an fsspec URL, not a folder."""
    return "://" in place


class Storage:
    """The runs behind a URL.

    Raises:
        ConfigError: Nothing here can open such URLs.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url} cannot be opened: {error}") from None
        self.root = str(root).rstrip("/")

    def folder(self, study: str, run_id: str) -> str:
        return f"{self.root}/{study}/runs/{run_id}"

    def find_finished(self, job: Job) -> str | None:
        """The study, this one first, that has a finished run of that id."""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            found = {Path(path).name for path in self.files.ls(self.root, detail=False)}
            for study in sorted(found, key=lambda name: (name != job.study, name)):
                with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                    content = self.files.cat_file(f"{self.folder(study, job.run_id)}/{RESULT}")
                    if is_result(json.loads(content)):
                        return study
        return None

    def pull(self, job: Job, study: str | None = None) -> None:
        """Fetch what there is of a run, from the folder of `study` (None: the job's own), the result last."""
        source = self.folder(study or job.study, job.run_id)
        for name in dict.fromkeys((*UNFINISHED, *FINISHED)):
            try:
                content: bytes = self.files.cat_file(f"{source}/{name}")
            except FileNotFoundError:
                continue
            write_atomic(job.folder / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        if read_result(job.folder) is not None:
            for name in (RESUME, FAILURE):
                (job.folder / name).unlink(missing_ok=True)

    def push(self, job: Job) -> None:
        """Send what there is of a run, the result last."""
        target = self.folder(job.study, job.run_id)
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
    """A `run_job` that trains in a scratch folder of its machine, in step with a storage."""

    url: str
    run_job: RunJob | None = None
    """None = `run.run_job`."""

    def __call__(self, job: Job, report: Report, **options: Unpack[RunOptions]) -> Result:
        """As `run.run_job`, `job.root` aside: the run is in the storage then, and nowhere on this machine.

        Raises:
            Busy: Another process of this machine trains this run. Two machines do not see each other.
        """
        storage, near = Storage(self.url), replace(job, root=scratch(self.url))
        with lock(near.root, f"{job.run_id}.synced"):
            shutil.rmtree(near.folder, ignore_errors=True)  # what another machine did since is newer
            study = storage.find_finished(job)
            storage.pull(near, study)
            if study is None:
                sender = Sender(storage, near, report)
                try:
                    or_default(self.run_job)(near, sender, **options)
                finally:
                    sender.send()
            if study != job.study:
                storage.push(near)
            result = read_result(near.folder)
            assert result is not None
            shutil.rmtree(near.folder, ignore_errors=True)
        return result


class Sender:
    """A report that also sends each new checkpoint. One that cannot be sent costs only what it would have saved."""

    def __init__(self, storage: Storage, job: Job, report: Report) -> None:
        self.storage, self.job, self.report = storage, job, report
        self._sent = self._stamp()

    def __call__(self, progress: Progress) -> object:
        self.send()
        return self.report(progress)

    def send(self) -> None:
        """Send the checkpoint if it is new."""
        stamp = self._stamp()
        if stamp in (None, self._sent):
            return
        self._sent = stamp
        try:
            self.storage.push(self.job)
        except Exception as error:  # every storage has errors of its own
            log.warning("the checkpoint of run %s cannot be sent now: %s", self.job.run_id, error)

    def _stamp(self) -> int | None:
        with suppress(FileNotFoundError):
            return (self.job.folder / RESUME).stat().st_mtime_ns
        return None


def scratch(url: str) -> Path:
    """This machine's own folder for what belongs to a URL."""
    name = hashlib.sha256(url.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"mnet-{os.getuid()}" / name
