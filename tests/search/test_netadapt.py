"""NetAdapt decides by accuracy for cost, goes on where it was stopped, and trains for real from end to end."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import search
from support.taught_engine import TaughtEngine

import mnet
from mnet import ConfigError
from mnet.search.netadapt import FOUND, NETWORKS, NetAdapt, adapt
from mnet.search.proposals import MAdds
from mnet.studies.results.archive import study_table
from mnet.studies.results.loading import load
from mnet.studies.runs.store import RESULT, TRACE, WEIGHTS
from mnet.studies.trial import Trial
from mnet.weights.truncation import sizes

SEED = Trial(width=0.5)
COST = MAdds(28)
DEAR = {"expansion.1": 0.9, "bottleneck.3": 0.5, "expansion.10": 0.001}
"""Accuracy that a channel of these is worth, in points; of the others a hundredth."""


def worth(network: mnet.Network) -> float:
    return 50 + sum(DEAR.get(space, 0.01) * count for space, count in sizes(network).items())


def searched(folder, engine=None, told=None, **settings) -> list:
    settings = NetAdapt(**{"target": 0.8, "delta": 0.02, **settings})
    tell = (lambda *step: told.append(step)) if told is not None else (lambda *step: None)
    return adapt(SEED, COST, settings, folder, engine or TaughtEngine(worth), tell)


def test_each_step_takes_the_proposal_that_loses_least_for_what_it_saves(tmp_path):
    told = []
    steps = searched(tmp_path, told=told)
    assert [step for step, _ in told] == steps
    costs = [step.cost / steps[0].cost for step in steps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] <= 0.8 < costs[-2]
    assert max(before - after for before, after in pairwise(costs)) < 0.06
    trace = pd.read_csv(tmp_path / TRACE)
    last = steps[0]
    for step in steps[1:]:
        among = trace[trace["step"] == step.number]
        gains = (among["accuracy"] - last.accuracy) / (last.cost - among["cost"])
        assert among.loc[gains.idxmax(), "taken"]
        assert among["taken"].sum() == 1
        last = step
    before, after = sizes(steps[0].network), sizes(steps[-1].network)
    assert after["expansion.10"] < before["expansion.10"]  # which is worth least
    assert after["expansion.1"] == before["expansion.1"]
    found = mnet.create_model(str(tmp_path / FOUND))
    assert found.network == steps[-1].network
    assert found.network.num_classes == 10
    assert [path.parent for path in tmp_path.rglob(WEIGHTS)] == [steps[-1].folder]  # no others are needed


def test_a_proposal_is_tuned_from_the_last_network_on_validation_alone(tmp_path):
    engine = TaughtEngine(worth)
    steps = searched(tmp_path, engine, target=0.95, tune_steps=7, tune_lr=0.5)
    start, *tuned = (job.trial for job in engine.ran)
    assert start == replace(SEED, tested=False)
    recipe, own = SEED.full_recipe(), tuned[0].full_recipe()
    assert (own.epochs, own.epoch_steps, own.lr) == (1, 7, 0.5 * recipe.lr)
    assert not any(trial.tested for trial in tuned)
    assert {trial.pretrained for trial in tuned} == {str(step.folder) for step in steps[:-1]}
    assert [trial.seed for trial in tuned] == sorted(trial.seed for trial in tuned)
    assert {trial.seed for trial in tuned} == {step.number for step in steps[1:]}  # other images in every step


def test_a_search_that_is_stopped_anywhere_ends_with_the_same_files_and_pays_for_nothing_twice(tmp_path):
    whole = TaughtEngine(worth)
    searched(tmp_path / "whole", whole)
    count = len(whole.ran)
    paid = []
    for after in (0, 1, 5, 14, 20, None):
        engine = TaughtEngine(worth, stop_after=after)
        with suppress(KeyboardInterrupt):
            searched(tmp_path / "stopped", engine)
        paid += engine.ran
    assert len(paid) == count == len({job.run_id for job in paid})
    for name in (TRACE, FOUND):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = TaughtEngine(worth)
    searched(tmp_path / "stopped", again)
    assert not again.ran
    further = TaughtEngine(worth)
    steps = searched(tmp_path / "stopped", further, target=0.75)  # goes on from where it was
    assert steps[-1].cost < 0.75 * steps[0].cost
    assert further.ran
    assert min(job.trial.seed for job in further.ran) > 1


def test_a_folder_has_one_search_and_a_proposal_that_fails_is_not_taken(tmp_path):
    searched(tmp_path, target=0.95)
    with pytest.raises(ConfigError, match=r"delta 0.02, not 0.05; give another name, or remove the folder"):
        searched(tmp_path, delta=0.05)
    steps = searched(tmp_path / "broken", TaughtEngine(lambda net: -1 if net.blocks[9].expansion < 288 else worth(net)))
    assert "expansion.9" not in {step.what.split()[0] for step in steps}
    with pytest.raises(ConfigError, match="no proposal of step 1 could be tuned"):
        searched(
            tmp_path / "all", TaughtEngine(lambda net: worth(net) if net.blocks == SEED.network(10, 1).blocks else -1)
        )
    with pytest.raises(ConfigError, match="the seed could not be trained"):
        searched(tmp_path / "seed", TaughtEngine(lambda net: -1))


def test_a_target_that_no_narrowing_reaches_is_told_with_what_was_reached(tmp_path):
    with pytest.raises(ConfigError, match=r"no proposal saves 5.0% at \d\d% .*; give a target above 0\.\d\d, or a sm"):
        searched(tmp_path / "far", target=0.1, delta=0.05)
    with pytest.raises(ConfigError, match=r"no proposal saves 30.0% at 100% .*; give a smaller delta"):
        searched(tmp_path / "wide", delta=0.3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"target": 1.0}, "target must be above 0 and below 1"), ({"delta": 0.0}, "delta"), ({"tune_steps": 0}, "steps"),
     ({"tune_lr": -1.0}, "tune_lr")],
)  # fmt: skip
def test_settings_of_a_search_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        NetAdapt(**settings)


def test_from_end_to_end_on_real_images(tmp_path, images, capsys):
    out = tmp_path / "results"
    arguments = [f"--out={out}", "--dataset=imagefolder", f"--data_dir={images}", "--resolution=28", "--width=0.25",
                 "--recipe=quick", "--epochs=1", "--batch_size=8", "--lr=0.05", "--runtime=madds", "--target=0.96",
                 "--delta=0.02", "--tune_steps=2", "--seeds=2", "--name=n", "--workers=2"]  # fmt: skip
    assert search.main([*arguments, "--tunesteps=2"]) == 2
    assert "Did you mean tune_steps" in capsys.readouterr().err
    assert search.main([*arguments[:-3], "--runtime=litrt"]) == 2
    assert search.main([*arguments, "--head=ssdlite", "--dataset=scenes"]) == 2
    assert search.main(arguments) == 0
    said = capsys.readouterr().out
    assert "[1]" in said
    assert "target reached\n" in said
    for name in (TRACE, FOUND, "n-trace.png", "n.yaml", "runs.csv", "summary.csv", "report.html"):
        assert (out / "n" / name).is_file(), name
    runs = study_table(out, "n")
    scaled, found, _ = study_table(out, "n", "summary.csv")["cell"]
    assert found == f"model={out / 'n' / FOUND}"
    assert "target_madds" in scaled
    madds = runs.groupby("cell")["madds"].first()
    assert madds[found] == pytest.approx(madds[scaled], rel=0.05)
    assert set(load(out)["run_id"]) == set(runs["run_id"])  # proposals are no runs of a study
    assert len(list((out / "n" / NETWORKS).glob("*.yaml"))) >= 5
    results = len(list(out.rglob(RESULT)))
    assert search.main(arguments) == 0  # finds all done
    assert len(list(out.rglob(RESULT))) == results
