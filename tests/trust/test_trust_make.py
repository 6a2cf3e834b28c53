"""What make does follows from its command line alone, nothing in a value is run, and clean removes what make made."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import latency_android
import predict
import pytest
import train

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Makefile").read_text()
OPTIONS = set(re.findall(r"\b[A-Z][A-Z_]*\b", TEXT)) - {*re.findall(r"^([A-Z]+) *:=", TEXT, flags=re.MULTILINE), "HOME"}
PYTHON = """#!/bin/sh
printf '<%s> ' "$@" >> log
test "$2" = venv && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
exit 0
"""
"""Logs its arguments, and makes virtual environments that contain itself."""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs the Makefile, as from a shell, in its own folder, with a Python that trains nothing."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "log"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    for name in [name for name in os.environ if name in OPTIONS or name.startswith("MAKE") or name == "MFLAGS"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*arguments: str, **environment: str) -> list[str]:
        """Run make; return the arguments of all calls of its Python, in order."""
        (tmp_path / "log").write_text("")
        process = subprocess.run(
            ["make", "--no-print-directory", "PYTHON=./python", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return re.findall("<(.*?)> ", (tmp_path / "log").read_text(), flags=re.DOTALL)

    return run


@pytest.mark.parametrize("arguments", [(), ("-e",)])
def test_an_exported_variable_changes_no_call_of_any_target(make, tmp_path, arguments):
    assert {"OUT", "ARGS", "TRAINER", "EXTRAS", "STUDY", "WEIGHTS", "VENV", "RECIPE", "A"} < OPTIONS
    targets = [name.replace("%", "se") for name in re.findall(r"^([a-z%-]+):.*##", TEXT, flags=re.MULTILINE)]
    targets = [name for name in targets if name not in ("help", "clean")]
    command = ["make", "-n", "PYTHON=./python", *arguments, *targets]
    evil = {**os.environ, **dict.fromkeys(OPTIONS, "evil")}
    plain, exported = (
        subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
        for env in (os.environ, evil)
    )
    assert plain == exported
    assert "evil" not in exported


def test_nothing_in_a_value_or_the_name_of_a_study_is_run(make, tmp_path):
    odd = "a b'c;$d$(shell touch one)`touch two`$(touch three)"
    for name in ("OUT", "STUDY", "WEIGHTS"):
        assert odd in " ".join(make("diagnose", f"{name}={odd}"))
    assert make("compare", f"A={odd}", f"B={odd}")[-2:] == [odd, odd]
    assert make("test-kill", f"KILLS={odd}")[-1] == f"--kills={odd}"
    assert make("agent", f"SWEEP={odd}")[-1] == f"--agent={odd}"
    for target in ("ablate", "latency", "frontier", "report"):
        assert "x$(touch${IFS}four);`touch${IFS}five`" in make(f"{target}-x$(touch${{IFS}}four);`touch${{IFS}}five`")
    assert make("test", "ARGS=-k 'a or b' --x=$HOME")[-3:] == ["-k", "a or b", f"--x={tmp_path / 'home'}"]
    assert not {"one", "two", "three", "four", "five"} & {path.name for path in tmp_path.iterdir()}


def test_clean_removes_only_what_make_made(make, tmp_path):
    precious = tmp_path / "theirs/precious"
    precious.parent.mkdir()
    precious.touch()
    make("setup")
    make("setup", f"VENV={precious.parent}")  # installs into the existing folder
    assert (tmp_path / ".venv/bin/python").exists()
    for name in ("build", "dist", "a.egg-info"):
        (tmp_path / name).mkdir()
    make("clean", VENV=str(precious.parent))
    assert not (tmp_path / ".venv").exists()
    make("clean", f"VENV={precious.parent}")
    assert precious.exists()
    assert (tmp_path / "build").exists()
    make("setup", "VENV=~/envs/mine")
    assert (tmp_path / "home/envs/mine/bin/python").exists()
    make("clean", "VENV=~/envs/mine")
    assert not (tmp_path / "home/envs/mine").exists()


def test_home_is_meant_in_every_path_of_every_program(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "config.yaml").write_text("out: ~/from-file\npretrained: ~/weights.pt")
    given = predict.read_arguments(["~/runs/1", "~/images", "~", "--out=~/drawings"])
    assert (given.values.run, given.values.images) == ("/home/me/runs/1", ["/home/me/images", "/home/me"])
    assert given.options.out == "/home/me/drawings"
    given = train.read_arguments(["--data_dir=~/images", f"--config={tmp_path / 'config.yaml'}"])
    assert given.options.out == "/home/me/from-file"
    assert given.settings == {"data_dir": "/home/me/images", "pretrained": "/home/me/weights.pt"}
    assert latency_android.read_arguments(["--import=~/phone"]).values.folder == "/home/me/phone"
