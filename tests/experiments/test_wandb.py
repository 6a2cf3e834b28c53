"""Weights & Biases: its real client, core, agent and reader, against a server on the loopback interface.

An agent and its training run in separate processes, the rest in this one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import compare
import pandas as pd
import psutil
import pytest
import sweep
import train
import wandb
import yaml
from support.wandb_server import API_KEY, Run, is_dead, serving
from wandb.cli.cli import cli

from mnet.studies import Trial, load
from mnet.studies.engines import attempt
from mnet.studies.runs import tracking, wandb_server
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import adopt, lock

ROOT = Path(__file__).parents[2]
SWEEP_FILE = ROOT / "experiments" / "sweeps" / "activation.yaml"
METRIC = yaml.safe_load(SWEEP_FILE.read_text())["metric"]["name"]
LOGGED_IN_RESULT = {"test/top1": "top1", "test/top5": "top5", "test/loss": "test_loss", METRIC: "val_top1"}
GUARD_S = 300
"""Seconds after which W&B's client gives up on the server, which always answers; no test of speed."""
MEASURED = ("top1", "top5", "test_loss", "val_top1", "val_loss", "params", "madds")


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server
        assert not server.unanswered


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> dict[str, str]:
    """The environment of a user who has no W&B account."""
    folder = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    folders = {f"WANDB_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    quick = {"WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true", "WANDB_DIR": str(folder)}
    return {**kept, **folders, **quick, "HOME": str(folder), "NETRC": str(folder / "netrc"), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def account(home, server) -> dict[str, str]:
    """The environment of a user with an account on the server."""
    return {**home, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_INIT_TIMEOUT": str(GUARD_S)}


@pytest.fixture(scope="module")
def small(images) -> dict[str, object]:
    """Settings with which a trial of a paper's network takes a second."""
    return {
        "dataset": "imagefolder",
        "data_dir": str(images),
        "resolution": 28,
        "model": "mobilenet_v3_small",
        "width": 0.25,
        "batch_size": 16,
    }


@pytest.fixture(scope="module")
def tiny(small, tiny_model) -> dict[str, object]:
    """The same for a smaller network."""
    return {name: value for name, value in small.items() if name != "width"} | {"model": tiny_model}


@contextmanager
def as_user(environment: dict[str, str]) -> Iterator[None]:
    """Make this process that user's: W&B rereads its settings, and keeps nothing afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        wandb.teardown()
        try:
            yield
        finally:
            wandb.teardown()
            for name in ("WANDB_ENTITY", "WANDB_PROJECT"):  # wandb.sweep sets them
                os.environ.pop(name, None)


def options(settings: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def begin(environment: dict[str, str], program: str, *arguments: str, **settings) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "experiments" / program), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env=environment, **pipes, **settings)


def end(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for a process to end with the expected code; return what it printed."""
    output, _ = process.communicate()
    assert process.returncode == code, output
    return output


def register(account: dict[str, str], settings: dict[str, object], out: Path) -> str:
    """Register a sweep over the activation study; return its full id as printed."""
    printed = StringIO()
    with as_user(account), redirect_stdout(printed):
        assert sweep.main(["activation", *options(settings), f"--out={out}"]) == 0
    return printed.getvalue().split("make agent SWEEP=")[1].split()[0]


def train_here(settings: dict[str, object], out: Path) -> Path:
    """Train a run of the activation study in this process without W&B; return its folder."""
    arguments = [*options(settings), f"--out={out}", "--study=activation", "--wandb=off"]
    assert train.main(arguments) == 0
    (folder,) = (out / "activation" / "runs").iterdir()
    return folder


def wait_for(condition, process: subprocess.Popen | None = None) -> None:
    """Wait for a condition; fail if the process ends before it holds."""
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def kill(agent: subprocess.Popen) -> list[int]:
    """SIGKILL an agent and the process group of its training, if they are alive. Return all its descendants, including
    W&B's core, which has to notice by itself."""
    if agent.poll() is not None:
        return []
    below = psutil.Process(agent.pid).children(recursive=True)
    training = [process.pid for process in below if any("train.py" in part for part in process.cmdline())]
    for process in (agent.pid, *training):
        os.killpg(os.getpgid(process), signal.SIGKILL)
    agent.wait()
    return [process.pid for process in below]


def measured(result: dict[str, object]) -> dict[str, object]:
    return {name: result[name] for name in MEASURED}


@pytest.fixture(scope="module")
def swept(small, account, server, tmp_path_factory):
    """A finished grid of two activations: the sweep and its runs as the server knows them, and the results folder. An
    agent trains the second; the first, whose run has finished before, is given to this process as if an agent had
    started it."""
    out = tmp_path_factory.mktemp("results")
    before = train_here({**small, "activation": "paper", "seed": 0}, out) / "result.json"
    written = before.stat().st_mtime_ns
    name = register(account, {**small, "activation": "paper,relu", "seeds": 1}, out)
    registered = server.sweeps[name.rpartition("/")[2]]
    first = server.next_command(registered)
    with as_user({**account, "WANDB_SWEEP_ID": registered.name, "WANDB_RUN_ID": first["run_id"]}):
        command = [part for part in registered.config["command"] if part.startswith("--")]
        assert train.main([*command, *options({name: given["value"] for name, given in first["args"].items()})]) == 0
    end(begin(account, "sweep.py", f"--agent={name}"))
    return registered, [server.runs[run] for run in registered.taken], out, (before, written)


@pytest.mark.full("an agent's run, and a run that is killed and resumed, are each tested without the other")
def test_a_run_whose_agent_was_killed_is_taken_by_the_next_one_and_ends_the_same(tiny, account, server, tmp_path):
    settings = {**tiny, "activation": "paper", "seed": 7, "epochs": 12}
    registered = server.sweeps[(name := register(account, settings, tmp_path / "results")).rpartition("/")[2]]
    first = begin(account, "sweep.py", f"--agent={name}")
    wait_for(lambda: list(tmp_path.glob("results/activation/runs/*/resume.ckpt")), first)
    died = kill(first)
    wait_for(lambda: not any(map(psutil.pid_exists, died)))
    (run,) = (server.runs[taken] for taken in registered.taken)
    assert (run.exit_code, run.preempting, run.starts) == (None, True, 1)
    assert not list(tmp_path.rglob("result.json"))

    registered.patience_s = 0.0
    second = begin(account, "sweep.py", f"--agent={name}")
    undisturbed = train_here(settings, tmp_path / "undisturbed")
    end(second)
    assert (run.exit_code, run.starts) == (0, 2)
    result = json.loads((tmp_path / "results" / "activation" / "runs" / undisturbed.name / "result.json").read_text())
    assert measured(result) == measured(json.loads((undisturbed / "result.json").read_text()))
    assert run.summary["test/top1"] == result["top1"]


def test_a_registered_sweep_is_the_file_with_the_overrides_laid_over_its_parameters(swept, small):
    registered, _, out, _ = swept
    file = yaml.safe_load(SWEEP_FILE.read_text())
    settings = {name: {"value": value} for name, value in small.items()} | {"seed": {"value": 0}}
    varied = {"activation": {"values": ["paper", "relu"]}}
    assert registered.config["parameters"] == file["parameters"] | settings | varied
    assert registered.config["command"] == [*file["command"][:-1], f"--out={out}", "${args}"]
    for key in ("program", "method", "name", "description", "metric"):
        assert registered.config[key] == file[key]


def test_agents_work_off_the_grid_and_every_result_is_here_and_on_the_server(swept):
    _, runs, out, _ = swept
    folders = {folder.name: folder for folder in (out / "activation" / "runs").iterdir()}
    assert {run.config["run_id"] for run in runs} == set(folders)
    assert len(folders) == 2
    for run in runs:
        result = json.loads((folders[run.config["run_id"]] / "result.json").read_text())
        for shown, name in LOGGED_IN_RESULT.items():
            assert run.summary[shown] == result[name]
        assert {name: run.summary[name] for name in ("params", "madds")} == {n: result[n] for n in ("params", "madds")}
        assert any(METRIC in row and "trainer/global_step" in row for row in run.history)
        assert run.exit_code == 0


def test_runs_can_be_grouped_by_any_toggle(swept):
    _, runs, _, _ = swept
    for run in runs:
        assert (run.group, run.job_type) == ("activation/mobilenet_v3_small", "trial")
        assert run.tags == ["activation", "mobilenet_v3_small", "imagefolder"]
    assert sorted((run.config["activation"], run.config["seed"]) for run in runs) == [("paper", 0), ("relu", 0)]
    assert {(run.config["width"], run.config["se"], run.config["epochs"]) for run in runs} == {(0.25, "paper", 2)}
    assert {run.display_name for run in runs} >= {"width=0.25 seed=0", "activation=relu width=0.25 seed=0"}


def test_a_cell_finished_before_is_not_trained_again_but_its_result_and_charts_are_logged(swept):
    _, runs, _, (before, written) = swept
    assert before.stat().st_mtime_ns == written
    (run,) = (run for run in runs if run.config["run_id"] == before.parent.name)
    assert run.summary["test/top1"] == json.loads(before.read_text())["top1"]
    assert [row["trainer/global_step"] for row in run.history if METRIC in row]


def test_an_api_key_is_written_nowhere(swept, home):
    _, _, out, _ = swept
    files = [path for folder in (out, Path(home["HOME"])) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if API_KEY.encode() in path.read_bytes()]


def test_load_gives_the_same_rows_from_the_folder_the_sweep_and_a_run_of_it(swept, account, server, monkeypatch):
    registered, runs, out, _ = swept
    addresses = [
        f"me/mnet/sweeps/{registered.name}",
        f"https://wandb.ai/me/mnet/runs/{runs[0].name}?nw=x",
        "wandb:me/mnet",
    ]
    server.runs["theirs"] = Run("theirs", config={"lr": 0.1}, summary={"test/top1": 99.0}, exit_code=0)
    server.runs["unfinished"] = replace(runs[0], name="unfinished", exit_code=1)
    monkeypatch.setattr("mnet.studies.results.wandb_runs.TIMEOUT_S", GUARD_S)
    with as_user(account):
        swept_rows, one, project = map(load, addresses)
    here = load(out).sort_values("run_id", ignore_index=True)
    pd.testing.assert_frame_equal(swept_rows.sort_values("run_id", ignore_index=True), here)
    assert list(one["run_id"]) == [runs[0].config["run_id"]]
    assert set(here["run_id"]) <= set(project["run_id"])


def test_without_an_account_or_a_network_one_line_says_what_is_missing(tmp_path, monkeypatch, capsys):
    def unreachable() -> None:
        raise ConnectionError("connection refused\nand a page of trace")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnet.studies.results.wandb_runs.check_reachable", unreachable)
    for account, reason in (
        (False, "no W&B account; log in with `.venv/bin/wandb login`, or set WANDB_API_KEY"),
        (True, "connection refused"),
    ):
        monkeypatch.setattr("mnet.studies.results.wandb_runs.has_account", lambda account=account: account)
        assert compare.main(["me/mnet/one", "me/mnet/two"]) == 2
        line = f"error: no folder me/mnet/one, and W&B cannot be asked for it: {reason}\n"
        assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [wandb_server.ANSWER_SECONDS, tracking.INIT_SECONDS]),
        ({wandb_server.INIT_TIMEOUT: "90"}, [90.0, 90.0]),
    ],
)
def test_a_server_gets_seconds_to_answer_or_as_long_as_wandb_init_timeout_says(home, tmp_path, given, expected):
    limits = []
    with as_user({**home, "WANDB_API_KEY": API_KEY, **given}), pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_server, "_ask", lambda url, timeout_s, failures: limits.append(timeout_s))
        patch.setattr(tracking, "_init", lambda job, settings: limits.append(settings.init_timeout))
        tracking._start(Job(Trial(), tmp_path, "activation"), pytest.fail)
    assert limits == expected


@pytest.fixture(scope="module")
def offline(tiny, home, tmp_path_factory):
    """The output of a run without a W&B account, and the file that W&B wrote offline."""
    out = tmp_path_factory.mktemp("offline")
    arguments = [*options(tiny), "--wandb=on", "--variant=se=false kernel=3", "--study=without", f"--out={out}"]
    printed = StringIO()
    with as_user(home), redirect_stdout(printed), redirect_stderr(printed):
        assert train.main(arguments) == 0
    return printed.getvalue(), next(out.glob("*/runs/*/wandb/offline-run-*/*.wandb"))


def test_without_an_account_a_run_trains_and_one_line_says_how_to_upload_it(offline):
    output, file = offline
    *_, first, last = output.splitlines()  # after the lines about the images
    assert first.startswith("no W&B account: logging offline; ")
    assert f"wandb sync {file.parents[1]}/offline-*`" in first
    assert last.startswith("finished: test top-1")


def test_wandb_sync_uploads_config_history_and_summary_of_an_offline_run(offline, account, server):
    file, before = offline[1], set(server.runs)
    with as_user(account):
        assert cli.main(["sync", str(file.parent)], standalone_mode=False) is None
    (run,) = (run for name, run in server.runs.items() if name not in before)
    result = json.loads((file.parents[2] / "result.json").read_text())
    assert run.config["variant"] == "se=false kernel=3"
    assert (run.config["se"], run.config["kernel"]) == (False, 3)
    assert run.config["study"] == "without"
    history = [row[METRIC] for row in run.history if METRIC in row]
    assert len(history) >= 2
    assert history[-1] == pytest.approx(result["val_top1"])
    assert {name: run.summary[name] for name in LOGGED_IN_RESULT} == {n: result[k] for n, k in LOGGED_IN_RESULT.items()}


def test_a_run_whose_loss_is_no_number_is_not_handed_out_again(tiny, account, server, tmp_path, capsys):
    with as_user({**account, "WANDB_SWEEP_ID": "sweep0", "WANDB_RUN_ID": "diverges"}):
        assert train.main([*options({**tiny, "lr": 1e30}), f"--out={tmp_path}"]) == 1
    run = server.runs["diverges"]
    assert run.summary["failed"] in capsys.readouterr().err
    assert run.preempting
    assert not is_dead(run, patience_s=0.0)


def test_a_run_that_another_process_trains_is_waited_for(tiny, tmp_path, monkeypatch, capsys):
    theirs = train_here(tiny, tmp_path / "theirs")
    ours = tmp_path / "ours" / "activation" / "runs" / theirs.name
    held = ExitStack()
    held.enter_context(lock(tmp_path / "ours", theirs.name))

    def finish(seconds: float) -> None:
        adopt(theirs, ours)
        held.close()

    monkeypatch.setattr(attempt, "time", SimpleNamespace(sleep=finish))
    assert train_here(tiny, tmp_path / "ours") == ours
    assert f"another process works on run {ours.name}; waiting for it" in capsys.readouterr().out


def test_without_an_account_a_sweep_says_in_one_line_what_works_and_how_to_log_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnet.studies.runs.tracking.has_account", lambda: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    how = "For W&B log in with `.venv/bin/wandb login`, or set WANDB_API_KEY"
    for argument, target in (("activation", "activation"), ("--agent=me/mnet/sweep0", "<study>")):
        assert sweep.main([argument]) == 2
        line = f"error: no W&B account; make ablate-{target} works without one. {how}\n"
        assert capsys.readouterr().err == line
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert sweep.main(["activation"]) == 2
    line = "error: a sweep needs W&B online, but WANDB_MODE is 'offline'; make ablate-activation works without W&B\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.rglob("*"))
