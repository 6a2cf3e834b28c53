"""Train and test one network; what a W&B agent calls.

    python experiments/train.py --model=mobilenet_v2 --activation=hswish --seed=1
    python experiments/train.py --config=results/activation/runs/<run_id>/config.yaml --out=again   # the same run again

A LightningCLI: every setting of a trial is an option, and so is every argument of Lightning's Trainer
(--trainer.devices=4). The same settings give the same numbers here and in a study, and a run that any study under
--out has finished is copied, not trained.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import lightning as L
import torch
import yaml
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger

from mnet.errors import ConfigError, DataError, unknown
from mnet.settings import coerce, hints
from mnet.studies.options import OPTIONS, PARAMETERS, VARIANT, expand, field_docs, read_option
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import NotFinite
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import Busy, Result, find_finished, results_root
from mnet.studies.runs.tracking import is_wanted, log_history, log_result, tracked
from mnet.studies.runs.trainer import TRAINER_DEFAULTS, is_rank_zero
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile, check_compile

OWN = {
    "study": "Name of the study that the run belongs to.",
    "out": "Folder for results; the run's own is OUT/STUDY/runs/<run_id>.",
    "wandb": "Log to W&B: auto = when a W&B agent called.",
    "compile": "How training steps are compiled: off, or a mode of torch.compile, as reduce-overhead on a GPU.",
    "threads": "CPU threads; with 1 a run gives the same numbers as in a study.",
}
OWNED_BY_THE_TRIAL = ("max_epochs", "callbacks", "logger", "enable_checkpointing", "plugins")
TRAINER = {
    **{name: parameter.default for name, parameter in inspect.signature(L.Trainer).parameters.items()},
    **TRAINER_DEFAULTS,
}
"""Every argument of the Trainer with its default here."""

BUSY_SECONDS = 3.0
"""Between looks at a run that another process trains."""


class TrainCLI(LightningCLI):
    """LightningCLI whose model and data follow from a flat `Trial`, as the sweep files name it."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(
            L.Trainer, "trainer", instantiate=False, fail_untyped=False, skip={*OWNED_BY_THE_TRIAL}
        )
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        default = Trial()
        for name, hint in hints(Trial).items():
            parser.add_argument(f"--{name}", type=hint, default=getattr(default, name), help=field_docs()[name])
        parser.add_argument("--study", type=str, default="train", help=OWN["study"])
        parser.add_argument("--out", type=Path, default=Path("results"), help=OWN["out"])
        parser.add_argument("--wandb", type=Literal["auto", "on", "off"], default="auto", help=OWN["wandb"])
        parser.add_argument("--compile", type=Compile, default="off", help=OWN["compile"])
        parser.add_argument("--threads", type=PositiveInt, default=1, help=OWN["threads"])

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(cast(list[str], args))

    def instantiate_classes(self) -> None:
        """The trial builds model, data and trainer itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 trained (or found finished), 1 the training failed, 2 bad input."""
    try:
        readable, variant = read_arguments(sys.argv[1:] if arguments is None else arguments)
        cli = TrainCLI(
            run=False,
            args=readable,
            seed_everything_default=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={
                "description": __doc__.partition("\n")[0],
                "epilog": f"--{VARIANT}=...: {field_docs()[VARIANT]}",
            },
        )
        config = cast(Mapping, cli.config)
        trial = Trial(**{name: config[name] for name in PARAMETERS})
        trainer = {name: value for name, value in config["trainer"].items() if value != TRAINER[name]}
        root, study = results_root(str(config["out"]), trainer), study_name(config["study"])
        job = Job(trial, root, study, compile=config["compile"])
        check_compile(job.compile)
        torch.set_num_threads(config["threads"])
        before = find_finished(job.root, job.run_id) is not None
        if is_wanted(config["wandb"]) and is_rank_zero():
            with tracked(job, variant, print) as run:
                result = train(job, trainer, (WandbLogger(experiment=run),))
                if before:
                    log_history(run, job.folder)
                log_result(run, trial.task, result)
        else:
            result = train(job, trainer)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NotFinite as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if is_rank_zero():
        metric = trial.task.headline
        said = "finished before" if before else "finished"
        on, name = ("test", metric.name) if trial.tested else ("validation", f"val_{metric.name}")
        print(f"{said}: {on} {metric.label} {dict(result)[name]:.2f}%, {job.folder}")
        if "start" in result:
            print(f"  {result['start']}")
    return 0


def train(job: Job, trainer: Mapping[str, object], loggers: Sequence[Logger] = ()) -> Result:
    """The job's result: found, waited for where another process trains it, or trained here."""
    told = False
    while True:
        try:
            return run_job(job, trainer=trainer, loggers=loggers)
        except Busy as busy:
            if not told:
                print(f"{busy}; waiting for it")
                told = True
            time.sleep(BUSY_SECONDS)


def study_name(name: str) -> str:
    """`name`, if it can be that of a folder."""
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"study must be a plain name, not {name!r}")
    return name


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments with every trial setting checked, in one spelling (`paper` is null), last, and with `variant`
    written out, so that the first error a user sees names the nearest option or value; and the variant."""
    others, options = [], {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." in name or name in ("config", "print_config", "help"):
            others.append(argument)
        elif name in (*OPTIONS, *OWN, "seed_everything"):
            if not equals:
                raise ConfigError(f"write --{name}=VALUE, with an equals sign")
            if name in OPTIONS:
                options[name] = value
            else:
                others.append(argument)
        else:
            raise unknown("option", name, (*OPTIONS, *OWN))
    settings = {name: plain(coerce(name, value, hints(Trial)[name])) for name, value in expand(options).items()}
    variant = str(read_option(VARIANT, options[VARIANT])) if VARIANT in options else None
    written = [f"--{name}={yaml.safe_dump(value).splitlines()[0]}" for name, value in settings.items()]
    return [*others, *written], variant


def plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
