"""Small sweep, config and study files that expand to more than any machine holds."""

import itertools
import os
from pathlib import Path

import ablate
import pytest
from common.options import Parser
from common.sweeps import load_sweep

from mnet import ConfigError
from mnet.files import MOST_VALUES, load_yaml, read_yaml
from mnet.models.tables import table
from mnet.studies.claims.claims import load_claims
from mnet.studies.study import MOST_RUNS, load_profile, load_study
from mnet.studies.sweep_file import check_sweep

LEVELS = [chr(ord("a") + i) for i in range(20)]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]\n" for before, name in itertools.pairwise(LEVELS)
)
"""10**20 values in 1.5 kilobytes."""
GRID = """\
program: experiments/train.py
method: grid
metric: {name: val/top1, goal: maximize}
parameters:
  activation: {values: [paper, relu]}
"""


@pytest.mark.parametrize("read", [load_study, check_sweep, load_claims, load_yaml, lambda path: table(str(path))])
@pytest.mark.parametrize("content", [GRID + BOMB, GRID + "  width: " + "[" * 900 + "]" * 900, "[" * 10**6], ids=len)
def test_aliases_and_nesting_without_end_are_one_error(tmp_path, read, content):
    path = tmp_path / "study.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        read(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 500


def test_a_file_of_options_and_one_of_profiles_expand_nothing_either(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(BOMB)
    with pytest.raises(ConfigError, match="aliases expand to"):
        Parser(ablate.Options, "").read([f"--config={path}"])
    with pytest.raises(ConfigError, match="aliases expand to"):
        load_profile(path, "quick", "se")


def test_what_aliases_are_for_still_works():
    assert read_yaml("a: &a {b: [1, 2]}\nc: {<<: *a, d: *a}") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2], "d": {"b": [1, 2]}},
    }
    assert len(read_yaml("- 1\n" * (MOST_VALUES - 1))) == MOST_VALUES - 1


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_a_file_that_never_ends_is_no_sweep(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError):
        check_sweep(tmp_path / path)


def test_runs_are_counted_before_they_are_made(tmp_path):
    path = tmp_path / "wide.yaml"
    lists = {"lr": 400, "weight_decay": 400, "epochs": 375}  # 6e7 cells
    rows = [f"  {name}: {{values: [{', '.join(str(i + 1) for i in range(n))}]}}\n" for name, n in lists.items()]
    path.write_text(GRID + "".join(rows) + "  seed: {values: [0]}\n")
    with pytest.raises(ConfigError, match=r"would have 1\.2e\+08 runs; at most 100,000 are allowed"):
        load_study(path)
    for seeds in (10**12, 10**25):
        with pytest.raises(ConfigError, match=r"above all for seed, which has"):
            load_sweep("se", "quick", seeds=seeds)
    assert ablate.main(["se", "--seeds=1e12", f"--out={tmp_path}"]) == 2
    assert MOST_RUNS >= 10_000


def test_a_value_is_shortened_in_its_message(tmp_path, capsys):
    assert ablate.main(["se", f"--model={'x' * 5000}", f"--out={tmp_path}"]) == 2
    assert ablate.main(["se", f"--epochs={'9' * 5000}x", f"--out={tmp_path}"]) == 2
    assert ablate.main(["se", f"--variant={'9' * 5000}", f"--out={tmp_path}"]) == 2
    path = Path(tmp_path / "study.yaml")
    path.write_text(GRID.replace("relu", "y" * 5000))
    assert ablate.main([str(path)]) == 2
    assert all(len(line) < 600 for line in capsys.readouterr().err.splitlines())
