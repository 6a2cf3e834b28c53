"""Sweep files: what they become, and how a mistake in one is answered."""

from pathlib import Path

import pytest

from mnet import ConfigError
from mnet.studies import Trial, load_study
from mnet.studies.sweep import METRICS
from mnet.studies.trial import PARAMETERS, field_docs

SWEEPS = sorted((Path(__file__).parents[2] / "experiments/sweeps").glob("*.yaml"))
GOOD = """\
program: experiments/train.py
method: grid
metric: {name: val/top1, goal: maximize}
parameters:
  model: {value: mobilenet_v3_small}
  activation:
    values: [paper, relu]
  seed: {values: [0, 1, 2]}
"""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_study_has_three_seeds_a_question_and_its_command(path):
    study = load_study(path)
    assert len(study.cells) > 1
    assert all([trial.seed for trial in cell.trials] == [0, 1, 2] for cell in study.cells)
    assert f"make ablate-{study.name}" in study.description
    assert "?" in study.description


def test_the_first_value_of_each_list_is_the_baseline_and_seeds_are_crossed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    study = load_study(path, {"se": ["paper", "false"], "seed": ["4", 5.0]})
    assert [cell.name for cell in study.cells] == [
        "activation=paper, se=paper",
        "activation=paper, se=false",
        "activation=relu, se=paper",
        "activation=relu, se=false",
    ]
    assert study.cells[3].trials[1] == Trial(activation="relu", se=False, seed=5)


def test_a_cell_that_cannot_be_built_is_left_out_with_its_reason_but_not_the_baseline(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    study = load_study(path, {"model": ["mobilenet_v2", "mobilenet_v1"], "last_stage": ["full"]})
    assert len(study.cells) == 2
    assert len(study.refused) == 2
    assert "has no 1x1 convolution" in study.refused[0]
    with pytest.raises(ConfigError, match="baseline cell"):
        load_study(path, {"model": ["mobilenet_v1"], "last_stage": ["full"]})


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("  activation:", "  activaton:"), 6, "Did you mean activation"),
        (("relu]", "rleu]"), 6, "Did you mean relu"),
        (("val/top1", "val/to1"), 3, "Did you mean val/top1"),
        (("method: grid", "method: bayes"), 2, "only 'grid' runs here"),
        (("method: grid", "metod: grid"), 2, "Did you mean method"),
        (("{value: mobilenet_v3_small}", "{vlaue: mobilenet_v3_small}"), 5, "needs either `value:` or `values:`"),
        (("[0, 1, 2]", "[]"), 8, "at least one value"),
        (("[0, 1, 2]", "[0.5]"), 8, "seed must be a whole number"),
    ],
)
def test_a_mistake_is_answered_with_file_line_and_the_nearest_spelling(tmp_path, change, line, said):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=said) as error:
        load_study(path)
    assert f"mine.yaml, line {line}:" in str(error.value)


def test_a_missing_study_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean activation"):
        load_study(SWEEPS[0].with_name("activaton.yaml"))


def test_run_ids_follow_from_what_is_computed_not_from_how_it_is_written():
    v2 = Trial(model="mobilenet_v2")
    assert v2.run_id == Trial(model="mobilenet_v2", activation="relu6", width=1).run_id
    assert v2.run_id == Trial(model="mobilenet_v2", epochs=2, data_dir=Path("elsewhere")).run_id
    others = [
        Trial(model="mobilenet_v2", activation="relu"),
        Trial(model="mobilenet_v2", seed=1),
        Trial(model="mobilenet_v2", epochs=3),
        Trial(model="mobilenet_v2", resolution=32),
        Trial(model="mobilenet_v2", dataset="cifar10"),
    ]
    assert len({v2.run_id, *(trial.run_id for trial in others)}) == 1 + len(others)


def test_every_parameter_is_documented_and_every_metric_is_logged():
    assert all(field_docs().get(name) for name in PARAMETERS)
    assert set(METRICS) == {"val/top1", "val/top5", "val/loss"}


def test_bad_settings_of_a_trial_are_refused_before_anything_runs():
    for settings, said in (
        ({"epochs": 0}, "epochs must be positive"),
        ({"seed": -1}, "seed must be in"),
        ({"recipe": "v4"}, "unknown recipe"),
        ({"model": "mobilenet_v3"}, "Did you mean mobilenet_v"),
        ({"model": "mobilenet_v2", "shallow": True}, "five 14x14x512"),
    ):
        with pytest.raises(ConfigError, match=said):
            Trial(**settings)
