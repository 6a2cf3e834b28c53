"""Train and test one network; what a W&B agent calls.

    python experiments/train.py --model=mobilenet_v2 --activation=hswish --seed=1
    python experiments/train.py --config=results/activation/runs/<run_id>/config.yaml   # the same run again

A LightningCLI: every setting of a trial is an option, and so is every argument of Lightning's Trainer
(--trainer.devices=4). The same settings give the same numbers here and in a study.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import lightning as L
import torch
import wandb
import yaml
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger

from mnet.errors import ConfigError, DataError, unknown
from mnet.settings import coerce, hints
from mnet.studies.run import TRAINER_DEFAULTS, NotFinite, read_result, run_trial
from mnet.studies.trial import PARAMETERS, Trial, field_docs

OWN = {
    "out": "Folder for the run's own folder.",
    "wandb": "Log to W&B: auto = when a W&B agent called.",
    "threads": "CPU threads; with 1 a run gives the same numbers as in a study.",
}
OWNED_BY_THE_TRIAL = ("max_epochs", "callbacks", "logger", "enable_checkpointing")
TRAINER = {
    **{name: parameter.default for name, parameter in inspect.signature(L.Trainer).parameters.items()},
    **TRAINER_DEFAULTS,
}
"""Every argument of the Trainer with its default here."""


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
        parser.add_argument("--out", type=Path, default=Path("results/train"), help=OWN["out"])
        parser.add_argument("--wandb", type=Literal["auto", "on", "off"], default="auto", help=OWN["wandb"])
        parser.add_argument("--threads", type=PositiveInt, default=1, help=OWN["threads"])

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(cast(list[str], args))

    def instantiate_classes(self) -> None:
        """The trial builds model, data and trainer itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 trained (or found finished), 1 the training failed, 2 bad input."""
    try:
        cli = TrainCLI(
            run=False,
            args=readable(sys.argv[1:] if arguments is None else list(arguments)),
            seed_everything_default=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={"description": __doc__.partition("\n")[0]},
        )
        config = cast(Mapping, cli.config)
        trial = Trial(**{name: config[name] for name in PARAMETERS})
        trainer = {name: value for name, value in config["trainer"].items() if value != TRAINER[name]}
        torch.set_num_threads(config["threads"])
        folder = Path(config["out"]) / run_name(trial, trainer)
        before = read_result(folder)
        result = before or train(trial, folder, trainer, config["wandb"])
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NotFinite as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"{'finished before' if before else 'finished'}: test top-1 {result['top1']:.2f}%, {folder}")
    return 0


def run_name(trial: Trial, trainer: Mapping[str, object]) -> str:
    """The run's id; with a digest behind it where the Trainer was changed, so that neither is taken for the other."""
    digest = hashlib.sha256(json.dumps(trainer, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return f"{trial.run_id}-{digest}" if trainer else trial.run_id


def train(trial: Trial, folder: Path, trainer: Mapping[str, object], wanted: str) -> dict[str, object]:
    loggers = wandb_loggers(trial, wanted, folder)
    try:
        result = run_trial(trial, folder, trainer=trainer, loggers=loggers)
        for logger in loggers:
            logger.log_metrics({name: value for name, value in result.items() if isinstance(value, int | float)})
        return result
    finally:
        if wandb.run is not None:
            wandb.finish()


def wandb_loggers(trial: Trial, wanted: str, folder: Path) -> tuple[Logger, ...]:
    """W&B's logger when an agent called or the user asked; offline where there is no account."""
    if wanted == "off" or (wanted == "auto" and "WANDB_SWEEP_ID" not in os.environ):
        return ()
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not wandb.login(prompt=False):
        mode = "offline"
        print(f"no W&B account: logging offline; `wandb sync {folder}/wandb/offline-*` uploads it")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**trial.settings(), "run_id": trial.run_id}
    names = {"config": settings, "mode": mode, "group": trial.model, "tags": [trial.dataset]}
    return (WandbLogger(name=trial.run_id, project="mnet", save_dir=folder, **cast(dict, names)),)


def readable(arguments: list[str]) -> list[str]:
    """The arguments with every trial setting checked and in one spelling (`paper` is null), so that the first
    error a user sees names the nearest option or value."""
    checked = []
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." in name or name in ("config", "print_config", "help"):
            checked.append(argument)
        elif name in PARAMETERS and equals:
            checked.append(f"--{name}={yaml.safe_dump(plain(coerce(name, value, hints(Trial)[name]))).splitlines()[0]}")
        elif name in (*PARAMETERS, *OWN, "seed_everything"):
            if not equals:
                raise ConfigError(f"write --{name}=VALUE, with an equals sign")
            checked.append(argument)
        else:
            raise unknown("option", name, (*PARAMETERS, *OWN))
    return checked


def plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
