"""Runs of one cell that differ in their seed alone, trained as replicas of one network.

Each run keeps its own folder, the same files as if it had been trained alone, checkpoints too: a pack that was killed
goes on as one, to the same bits, or alone; runs that were stopped at the same step go on as a pack. How runs were
packed is not in their results, up to the order of summation, except as `replicas` and as time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import cast

import lightning as L

from mnet.data import ImageData
from mnet.data.batches import Batches, Resumable
from mnet.provenance import keep_freed_memory
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.checkpoints import ResumeCheckpoint, usable_checkpoint
from mnet.studies.runs.finish import Training, finish
from mnet.studies.runs.job import Job, Outcome, failure
from mnet.studies.runs.metrics import MetricsFiles
from mnet.studies.runs.packed_checkpoints import PackedCheckpoints, at_one_step
from mnet.studies.runs.prepare import prepare_run
from mnet.studies.runs.progress import NotFinite, Report
from mnet.studies.runs.store import Busy, adopt, find_finished, lock, write_config
from mnet.studies.runs.trainer import CHECKPOINT_SECONDS, make_trainer, quieten
from mnet.tasks.pack import Pack


def run_jobs(
    jobs: Sequence[Job],
    report: Report,
    *,
    trainer: Mapping[str, object] | None = None,
    checkpoint_s: float = CHECKPOINT_SECONDS,
    data: ImageData | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs that differ in their seed alone, each once, whoever else is about to: as `run.run_job` for each.

    Returns:
        Each job's outcome, as soon as it has one. What goes wrong for all of them together is each one's.
    """
    with ExitStack() as locks:
        mine: list[Job] = []
        for i, job in enumerate(jobs):
            try:
                locks.enter_context(lock(job.root, job.run_id))
            except Busy as error:  # who has one of them may be about to take the others: all are left together
                locks.close()
                for other in (*mine, *jobs[i:]):
                    yield other, Outcome("locked", str(error))
                return
            if (finished := find_finished(job.root, job.run_id)) is not None:
                yield job, Outcome("finished", adopt(finished, job.folder))
            else:
                mine.append(job)
        for together in at_one_step(mine):
            left = {job.run_id: job for job in together}
            try:
                for job, outcome in train(together, report, trainer, checkpoint_s, data):
                    del left[job.run_id]
                    yield job, outcome
            except Exception as error:
                for job in left.values():
                    yield job, failure(error)


def train(
    jobs: Sequence[Job],
    report: Report,
    trainer: Mapping[str, object] | None,
    checkpoint_s: float,
    data: ImageData | None,
) -> Iterator[tuple[Job, Outcome]]:
    """Train the jobs as one network, then test each.

    Raises:
        NotFinite: No loss is a number.
        Stopped: The report asked for it.
    """
    quieten()
    keep_freed_memory()
    folders = [job.folder for job in jobs]
    prepared = []
    for job in jobs:
        write_config(job.trial, job.folder, trainer)
        prepared.append(prepare_run(job.trial, data))
        data = data or prepared[0][1]  # read once
    models, images = [model for model, _ in prepared], [own for _, own in prepared]
    trial, recipe, pack = jobs[0].trial, models[0].recipe, Pack(models)
    pack.compile_training(jobs[0].compile)
    watch, metrics = ProgressMonitor(report), MetricsFiles(folders)
    seeds = SeedSteps(*(own.seed for own in images))
    callbacks = [watch, seeds, ResumeCheckpoint(folders[0], checkpoint_s, watch, metrics)]
    machine = make_trainer(trial, recipe, callbacks, [metrics], PackedCheckpoints(folders), trainer)
    together = cast(L.LightningDataModule, PackedDataModule(images))
    machine.fit(pack, datamodule=together, ckpt_path=usable_checkpoint(folders[0]), weights_only=True)
    if machine.interrupted:
        raise KeyboardInterrupt
    pack.release()
    training = Training(machine.global_step, watch.seconds / len(jobs), jobs[0].compile, len(models))
    for i, job in enumerate(jobs):
        try:
            if i in watch.lost:
                raise NotFinite("the loss is nan")
            machine.loggers = [metrics.files[i]]
            result = finish(job.trial, job.folder, models[i], images[i], machine, metrics.files[i], training)
        except NotFinite as error:
            yield job, failure(error)
        else:
            yield job, Outcome("finished", result)


class PackedDataModule(L.LightningDataModule):
    """The images of several runs: each one's own order and augmentation for training, the same for validation."""

    def __init__(self, images: Sequence[ImageData]) -> None:
        super().__init__()
        self.images = images

    def train_dataloader(self) -> ZippedLoader:
        for own in self.images:
            own.trainer = self.trainer  # they are asked, not this
        return ZippedLoader([cast(Batches, own.train_dataloader()) for own in self.images])

    def val_dataloader(self) -> object:
        return self.images[0].val_dataloader()


class ZippedLoader(Resumable):
    """Loaders in step: a batch is a list of one from each."""

    def __init__(self, loaders: Sequence[Batches]) -> None:
        super().__init__()
        self.loaders = loaders

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[list[object]]:
        for batch in zip(*self.loaders, strict=True):
            yield list(batch)

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return self.loaders[0].state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        for loader in self.loaders:
            loader.load_state_dict(state)
