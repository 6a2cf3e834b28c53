"""A trial: options in any spelling give one network, and one id for what is computed."""

import pickle
from pathlib import Path

import pytest

from mnet import ConfigError, cost, describe
from mnet.models.toggles import width
from mnet.models.width import WIDTHS, solve_width
from mnet.studies import Trial
from mnet.studies.options import expand, read_option, trial_from


def test_run_ids_follow_from_what_is_computed_not_from_how_it_is_written():
    v2 = Trial(model="mobilenet_v2")
    assert v2.run_id == Trial(model="mobilenet_v2", activation="relu6", width=1).run_id
    assert v2.run_id == Trial(model="mobilenet_v2", epochs=2, data_dir=Path("elsewhere")).run_id
    assert v2.run_id == Trial(model="mobilenet_v2", resolution=28).run_id
    others = [
        Trial(model="mobilenet_v2", activation="relu"),
        Trial(model="mobilenet_v2", seed=1),
        Trial(model="mobilenet_v2", epochs=3),
        Trial(model="mobilenet_v2", resolution=32),
        Trial(model="mobilenet_v2", dataset="cifar10"),
        Trial(model="mobilenet_v2", dataset="cifar10", resolution=28),
    ]
    assert len({v2.run_id, *(trial.run_id for trial in others)}) == 1 + len(others)


def test_the_ids_of_published_runs_stay():
    assert Trial(model="mobilenet_v3_small").run_id == "c6cd2d9cae27"  # results/published/activation/runs.csv
    assert Trial(model="mobilenet_v3_small", activation="hswish", seed=2).run_id == "ae6b4fb3099a"


def test_a_run_id_is_computed_once_and_travels_with_the_trial(monkeypatch):
    trial = Trial(width=0.5)
    before = trial.run_id
    monkeypatch.setattr("mnet.studies.trial.changed", None)
    assert pickle.loads(pickle.dumps(trial)).run_id == trial.run_id == before
    assert trial == Trial(width=0.5)


def test_a_variant_is_the_settings_that_it_writes_out():
    assert expand({"variant": "se=true  kernel=5", "seed": "1"}) == {"se": True, "kernel": 5, "seed": "1"}
    assert trial_from({"variant": "se=true kernel=5", "seed": "1"}) == Trial(se=True, kernel=5, seed=1)
    assert trial_from({"variant": "se=true kernel=5"}).run_id == Trial(se=True, kernel=5).run_id
    for nothing in ("paper", None, "null", "None", ""):
        assert trial_from({"variant": nothing}) == Trial()
    assert trial_from({"activation": "paper", "width": "0.5"}) == Trial(width=0.5)
    assert read_option("variant", " se=true   kernel=5 ") == "se=true kernel=5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "activaton=relu"}, "in variant 'activaton=relu': unknown parameter .* Did you mean activation"),
        ({"variant": "activation=rleu"}, "in variant .* unknown activation 'rleu'; one of relu, .* Did you mean relu"),
        ({"variant": "relu"}, "unknown setting 'relu'; expected NAME=VALUE"),
        ({"variant": "se=true paper"}, "unknown setting 'paper'; expected NAME=VALUE"),
        ({"variant": "se"}, "se has no value; write se=VALUE"),
        ({"variant": "se="}, "se has no value; write se=VALUE"),
        ({"variant": "se=true se=false"}, "se is given twice"),
        ({"variant": "variant=paper"}, "unknown parameter 'variant'"),
        ({"variant": True}, "settings in one string"),
        ({"variant": "se=true", "se": False}, "se is given twice: by variant 'se=true' and as se=false; give one"),
        ({"varaint": "paper"}, "Did you mean variant"),
        ({"width": "wide"}, "width must be a finite number"),
    ],
)
def test_a_wrong_option_names_what_is_allowed_also_inside_a_variant(options, message):
    with pytest.raises(ConfigError, match=message):
        trial_from(options)


def test_bad_settings_of_a_trial_are_refused_before_anything_runs():
    for settings, message in (
        ({"epochs": 0}, "epochs must be positive"),
        ({"seed": -1}, "seed must be in"),
        ({"recipe": "v4"}, "unknown recipe"),
        ({"model": "mobilenet_v3"}, "Did you mean mobilenet_v"),
        ({"model": "mobilenet_v2", "shallow": True}, "five 14x14x512"),
        ({"target_madds": -1.0}, "target_madds must be positive"),
        ({"target_madds": 1.0, "width": 0.5}, "width and target_madds both choose the width"),
        ({"target_madds": 1.0, "dataset": "cifar1"}, "Did you mean cifar10"),
        ({"model": "mobilenet_v1", "target_madds": 2e4}, "out of reach of mobilenet_v1 at 28 px: 0.0862 to 169.8"),
        ({"model": "mobilenet_v1", "target_madds": 0.01}, "out of reach of mobilenet_v1 at 28 px: 0.0862 to 169.8"),
    ):
        with pytest.raises(ConfigError, match=message):
            Trial(**settings)


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize("target", [0.5, 2.06, 7.0])
def test_no_width_of_the_grid_comes_nearer_to_the_wanted_multiply_adds(model, target):
    network = describe(model, num_classes=10, in_channels=1, activation="relu")
    found = {alpha: cost(width(network, alpha), 28).madds / 1e6 for alpha in WIDTHS}
    solved = solve_width(network, 28, target)
    assert abs(found[solved] - target) == min(abs(madds - target) for madds in found.values())
    assert sorted(found.values()) == list(found.values())  # the bisection relies on this


def test_the_published_width_is_found_as_such():
    small = Trial(target_madds=2.06)
    assert small.solved_width() == 1.0
    assert small.run_id == Trial().run_id


def test_one_width_is_solved_whatever_network_is_asked_for():
    trial = Trial(model="mobilenet_v1", target_madds=1.57)
    assert trial.network(2, 1).width == trial.network(1000, 3).width == trial.solved_width()
    assert cost(trial.network(10, 1), 28).madds == pytest.approx(1.57e6, rel=0.01)
    assert trial.run_id == Trial(model="mobilenet_v1", width=trial.solved_width()).run_id
    larger = Trial(model="mobilenet_v1", target_madds=1.57, resolution=56)
    assert larger.solved_width() < trial.solved_width()
    coloured = Trial(model="mobilenet_v1", target_madds=1.57, dataset="cifar10", resolution=28)
    assert coloured.solved_width() <= trial.solved_width()
