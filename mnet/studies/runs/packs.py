"""Runs of one cell that differ only in their seed, trained as replicas of one network.

Each run keeps its own folder with the same files as if it had been trained alone, checkpoints included. A pack that
was killed resumes as a pack, to the same bits, or its runs resume alone; runs that were stopped at the same step resume
as a pack. Apart from rounding (the order of summation), `replicas` and the times, a result does not depend on packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from mnet.data import ImageData
from mnet.files import write_json
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.checkpoints import ResumeCheckpoint, usable_checkpoint
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.finish import Training, finish, test
from mnet.studies.runs.job import CHECKPOINT_SECONDS, Job, Outcome, failure
from mnet.studies.runs.metrics import MetricsFiles
from mnet.studies.runs.packed_checkpoints import PackedCheckpoints, group_by_step
from mnet.studies.runs.prepare import prepare_run
from mnet.studies.runs.progress import NotFinite, Report
from mnet.studies.runs.store import IMAGES, Busy, adopt, find_finished, lock, write_config
from mnet.studies.runs.trainer import make_trainer, silence_lightning
from mnet.tasks.pack import Pack
from mnet.training.memory import keep_freed_memory


def run_jobs(
    jobs: Sequence[Job],
    report: Report,
    *,
    trainer: Mapping[str, object] | None = None,
    checkpoint_s: float = CHECKPOINT_SECONDS,
    data: ImageData | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs that differ only in their seed, each as `run.run_job` does.

    Yields:
        Each job and its outcome, as soon as it is known. An error that stops the training is the outcome of every job
        that has none yet.
    """
    with ExitStack() as locks:
        unfinished: list[Job] = []
        for i, job in enumerate(jobs):
            try:
                locks.enter_context(lock(job.root, job.run_id))
            except Busy as error:  # the process that has this one may be about to take the others: leave it all of them
                locks.close()
                for left in (*unfinished, *jobs[i:]):
                    yield left, Outcome("locked", reason=str(error))
                return
            if (finished := find_finished(job.root, job.run_id, trainer)) is not None:
                yield job, Outcome("finished", result=adopt(finished, job.folder))
            else:
                unfinished.append(job)
        for pack in group_by_step(unfinished):
            waiting = {job.run_id: job for job in pack}
            try:
                for job, outcome in _train(pack, report, trainer, checkpoint_s, data):
                    del waiting[job.run_id]
                    yield job, outcome
            except Exception as error:
                for job in waiting.values():
                    yield job, failure(error)


def _train(
    jobs: Sequence[Job],
    report: Report,
    arguments: Mapping[str, object] | None,
    checkpoint_s: float,
    data: ImageData | None,
) -> Iterator[tuple[Job, Outcome]]:
    """Train and test the jobs as one network; `arguments` are those of Lightning's Trainer.

    Raises:
        NotFinite: The loss of every job is NaN or infinite.
        Stopped: The report asked to stop.
    """
    silence_lightning()
    keep_freed_memory()
    folders = [job.folder for job in jobs]
    modules, datas = [], []
    for job in jobs:
        write_config(job.trial, job.folder, arguments)
        module, job_data = prepare_run(job.trial, data)
        write_json(job.folder / IMAGES, job_data.description())
        modules.append(module)
        datas.append(job_data)
        data = data or job_data  # read once
    pack = Pack(modules)
    pack.compile_training(jobs[0].compile)
    monitor, metrics = ProgressMonitor(report), MetricsFiles(folders)
    seeds = SeedSteps(*(job_data.seed for job_data in datas))
    run_ids = [job.run_id for job in jobs]
    callbacks = [monitor, seeds, ResumeCheckpoint(folders[0], run_ids, checkpoint_s, monitor, metrics)]
    checkpoints = PackedCheckpoints(folders)
    trainer = make_trainer(jobs[0].trial, modules[0].recipe, callbacks, [metrics], checkpoints, arguments)
    images = RunImages(datas)
    trainer.fit(pack, datamodule=images, ckpt_path=usable_checkpoint(folders[0], run_ids[0]), weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    logged = test(jobs[0].trial, pack, images, trainer)
    pack.release()
    training = Training(trainer.global_step, monitor.seconds / len(jobs), pack.compiled_as, len(jobs))
    for i, (job, module, job_data, file) in enumerate(zip(jobs, modules, datas, metrics.files, strict=True)):
        try:
            if i in monitor.diverged:
                raise NotFinite("the loss is nan")
            tested = {name.removeprefix(f"{i}/"): value for name, value in logged.items() if name.startswith(f"{i}/")}
            result = finish(job.trial, job.folder, module, job_data, trainer, file, training, tested)
        except NotFinite as error:
            yield job, failure(error)
        else:
            yield job, Outcome("finished", result=result)
