"""The command line that all programs share: options, files of options, settings of trials, the Trainer's arguments."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from common.options import Parser, check_positive
from common.program import program
from common.sweeps import overrides

from mnet.errors import ConfigError
from mnet.studies.options import trial_from


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a program."""

    seeds: int | None = None
    """Number of seeds."""
    engine: Literal["local", "ray"] = "local"
    """Where 100% of the trials run."""
    write: bool = False
    """Write the result."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds")


def read(*arguments: str, trial: bool = True, trainer: bool = True):
    parser = Parser(Options, "A program.", trial=trial, trainer=trainer)
    parser.add_argument("study", nargs="*", help="studies")
    return parser.read(arguments)


def test_values_are_read_in_the_spellings_of_a_shell_of_make_and_of_wandb():
    given = read("a", "--seeds", "3", "--write", "--epochs=1.0", "--width=None", "--shallow=True")
    assert given.options == Options(seeds=3, write=True)
    assert given.values.study == ["a"]
    assert given.settings == {"epochs": "1.0", "width": "None", "shallow": "True"}
    assert read("--write=false").options == Options()


@pytest.mark.parametrize(
    ("argument", "name", "expected"),
    [
        ("--se=True", "se", True),
        ("--se=false", "se", False),
        ("--width=None", "width", None),
        ("--width=null", "width", None),
        ("--width=1", "width", 1.0),
        ("--epochs=2.0", "epochs", 2),
        ("--seed=3.0", "seed", 3),
        ("--lr=1e-4", "lr", 1e-4),
        ("--lr=5E-05", "lr", 5e-5),
        ("--batch_size=1e2", "batch_size", 100),
        ("--activation=None", "activation", None),
        ("--kernel=5.0", "kernel", 5),
        ("--variant=se=false kernel=3", "se", False),
        ("--data_dir=~/a b", "data_dir", Path("~/a b").expanduser()),
        ("--pretrained=a#b", "pretrained", "a#b"),
    ],
)
def test_every_argument_of_an_agent_becomes_a_setting(argument, name, expected):
    value = getattr(trial_from(read(argument).settings), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs=2.5", "epochs must be a whole number, not '2.5'"),
        ("--lr={'min': 1}", "lr must be a finite number"),
        ("--se=1", "se must be true or false, not '1'"),
        ("--lr=nan", "lr must be a finite number, not 'nan'"),
        ("--model.width=1", "unknown option 'model.width'"),
        ("--trainer.precision.x=1", "unknown argument of the Trainer 'precision.x'"),
        ("--lr=[1, 2]", "lr must be a finite number"),
    ],
)
def test_a_value_that_no_setting_can_have_is_refused_in_one_line(argument, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        trial_from(read(argument).settings)


def test_a_file_of_options_is_read_and_the_command_line_wins(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("seeds: 2\nengine: ray\nwidth: 0.5\nse: false\nactivation: [paper, relu]\ntrainer: {devices: 2}\n")
    given = read(f"--config={path}", "--seeds=4", "--variant=se=true kernel=5", "--trainer.devices=3")
    assert given.options == Options(seeds=4, engine="ray")
    assert given.settings == {"width": 0.5, "activation": ["paper", "relu"], "variant": "se=true kernel=5"}
    assert given.trainer == {"devices": 3}
    values = overrides("activation", "quick", 1, {"activation": ["paper", "relu"], "lr": "0.1,0.2", "width": 0.5})
    assert {name: list(values[name]) for name in ("activation", "lr", "width")} == {
        "activation": ["paper", "relu"],
        "lr": ["0.1", "0.2"],
        "width": [0.5],
    }


def test_arguments_of_the_trainer_at_their_default_make_no_other_run():
    assert read("--trainer.devices=1", "--trainer.accelerator=auto").trainer == {}
    assert read("--trainer.precision=bf16-mixed").trainer == {"precision": "bf16-mixed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sedes=1"], r"unknown option 'sedes'; one of seeds, .*Did you mean seeds\?"),
        (["--seed"], "expected one argument"),
        (["--see=1"], "unknown option 'see'"),  # no abbreviations: `se` and `seed` differ
        (["--engine=rya"], r"unknown engine 'rya'; one of local, ray\. Did you mean ray\?"),
        (["--seeds=1.5"], "seeds must be a whole number, not '1.5'"),
        (["--seeds=0"], "seeds must be above 0, not 0"),
        (["--activation=rleu"], r"Did you mean relu\?"),
        (["--activation=relu,rleu"], r"Did you mean relu\?"),
        (["--trainer.devics=2"], r"unknown argument of the Trainer 'devics'; .*Did you mean devices\?"),
        (["--trainer.devices"], "write --trainer.devices=VALUE"),
        (["--trainer.max_epochs=3"], r"trainer\.max_epochs follows from the settings of the trial; give --epochs"),
        (["--trainer.max_steps=many"], r"trainer\.max_steps must be int, not 'many'"),
        (["--trainer.strategy=[ddp]"], r"trainer\.strategy must be str or Strategy, not \['ddp'\]"),
        (["--trainer.devices=[1"], r"trainer\.devices must be a valid YAML value, not '\[1'"),
        (["--config=nowhere.yaml"], r"nowhere\.yaml cannot be read"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ConfigError, match=message):
        read(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sedes: 1", r"line 1: unknown option 'sedes'; .*Did you mean seeds\?"),
        ("seeds: 1\nwidth: wide", "line 2: width must be a finite number, not 'wide'"),
        ("activation: [relu, rleu]", r"line 1: unknown activation 'rleu'; .*Did you mean relu\?"),
        ("trainer: 3", "line 1: trainer must be a mapping"),
        ("- 1", "line 1: an options file must be a mapping"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "options.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(f"--config={tmp_path / 'options.yaml'}")


def test_a_program_without_trials_takes_neither_their_settings_nor_the_trainer():
    for argument in ("--width=0.5", "--trainer.devices=2"):
        with pytest.raises(ConfigError, match="unknown option"):
            read(argument, trial=False, trainer=False)


def test_help_has_a_usage_of_one_line_and_the_docstrings_of_fields(capsys):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: ")
    assert "study [--NAME=VALUE ...] A program." in text
    assert "--engine VALUE Where 100% of the trials run." in text
    assert "--trainer.NAME=VALUE" in text


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no such thing"), 2, "error: no such thing"),
        (OSError("disk full"), 1, "error: disk full; finished work is kept"),
        (KeyboardInterrupt(), 130, "stopped; finished work and checkpoints are kept: run the same command to continue"),
    ],
)
def test_an_error_ends_a_program_with_one_line_and_its_code(error, code, line, capsys):
    @program
    def main(arguments):
        raise error

    assert main([]) == code
    assert capsys.readouterr().err.strip() == line
