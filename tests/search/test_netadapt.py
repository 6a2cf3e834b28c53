"""NetAdapt decides by accuracy per saving, resumes where it was stopped, and trains real networks end to end."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import search
from support.simulated_engine import SimulatedEngine

import mnet
from mnet import ConfigError
from mnet.search.netadapt import NetAdapt, adapt
from mnet.search.proposals import MAdds
from mnet.studies.results.archive import study_table
from mnet.studies.results.loading import load
from mnet.studies.runs.store import FOUND_NETWORK, NETWORKS, RESULT, TRACE, WEIGHTS
from mnet.studies.trial import Trial
from mnet.weights.truncation import sizes

COST = MAdds(28)
DEAR = {"expansion.1": 0.9, "bottleneck.3": 0.5, "expansion.4": 0.001}
"""Points of accuracy per 100 channels in these spaces; elsewhere 0.01."""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Trial:
    """A network of only five blocks: writing those of each proposal to two files takes most of a simulated search."""
    network = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)
    path = tmp_path_factory.mktemp("models") / "start.yaml"
    mnet.write_network(replace(network, blocks=network.blocks[:5]), path)
    return Trial(model=str(path))


def worth(network: mnet.Network) -> float:
    return 50 + sum(DEAR.get(space, 0.01) * count for space, count in sizes(network).items()) / 100


def run_search(start, folder, engine=None, reports=None, **settings) -> list:
    settings = NetAdapt(**{"target": 0.8, "delta": 0.02, **settings})
    reports = [] if reports is None else reports
    engine = engine or SimulatedEngine(worth)
    return adapt(start, COST, settings, folder, engine, lambda *report: reports.append(report))


def test_each_step_takes_the_proposal_that_loses_least_accuracy_per_saving(start, tmp_path):
    reports = []
    steps = run_search(start, tmp_path, reports=reports)
    assert [step for step, _ in reports] == steps
    costs = [step.cost / steps[0].cost for step in steps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] <= 0.8 < costs[-2]
    assert max(before - after for before, after in pairwise(costs)) < 0.06
    trace = pd.read_csv(tmp_path / TRACE)
    last = steps[0]
    for step in steps[1:]:
        rows = trace[trace["step"] == step.number]
        gains = (rows["accuracy"] - last.accuracy) / (last.cost - rows["cost"])
        assert rows.loc[gains.idxmax(), "taken"]
        assert rows["taken"].sum() == 1
        last = step
    before, after = sizes(steps[0].network), sizes(steps[-1].network)
    assert after["expansion.4"] < before["expansion.4"]  # the least valuable space
    assert after["expansion.1"] == before["expansion.1"]
    found = mnet.create_model(str(tmp_path / FOUND_NETWORK))
    assert found.network == steps[-1].network
    assert found.network.num_classes == 10
    assert [path.parent for path in tmp_path.rglob(WEIGHTS)] == [steps[-1].folder]  # only these are kept


def test_proposals_are_tuned_from_the_last_network_without_testing(start, tmp_path):
    engine = SimulatedEngine(worth)
    steps = run_search(start, tmp_path, engine, target=0.95, tune_steps=7, tune_lr=0.5)
    start, *tuned = (job.trial for job in engine.jobs)
    assert start == replace(start, tested=False)
    recipe, tuning = start.full_recipe(), tuned[0].full_recipe()
    assert (tuning.epochs, tuning.epoch_steps, tuning.lr) == (1, 7, 0.5 * recipe.lr)
    assert not any(trial.tested for trial in tuned)
    assert {trial.pretrained for trial in tuned} == {str(step.folder) for step in steps[:-1]}
    assert [trial.seed for trial in tuned] == sorted(trial.seed for trial in tuned)
    assert {trial.seed for trial in tuned} == {step.number for step in steps[1:]}  # every step sees other images


def test_a_stopped_search_ends_with_the_same_files_and_trains_nothing_twice(start, tmp_path):
    whole = SimulatedEngine(worth)
    run_search(start, tmp_path / "whole", whole, target=0.9)
    count = len(whole.jobs)
    jobs = []
    for after in (0, 1, 5, 9, 4, None):
        engine = SimulatedEngine(worth, stop_after=after)
        with suppress(KeyboardInterrupt):
            run_search(start, tmp_path / "stopped", engine, target=0.9)
        jobs += engine.jobs
    assert len(jobs) == count == len({job.run_id for job in jobs})
    for name in (TRACE, FOUND_NETWORK):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    idle = SimulatedEngine(worth)
    run_search(start, tmp_path / "stopped", idle, target=0.9)
    assert not idle.jobs
    further = SimulatedEngine(worth)
    steps = run_search(start, tmp_path / "stopped", further, target=0.87)  # continues
    assert steps[-1].cost < 0.87 * steps[0].cost
    assert further.jobs
    assert min(job.trial.seed for job in further.jobs) > 1


def test_a_folder_has_one_search_and_failed_proposals_are_not_taken(start, tmp_path):
    run_search(start, tmp_path, target=0.95)
    with pytest.raises(ConfigError, match=r"delta 0.02, not 0.05; give another name, or remove the folder"):
        run_search(start, tmp_path, delta=0.05)
    steps = run_search(
        start, tmp_path / "broken", SimulatedEngine(lambda net: -1 if net.blocks[3].expansion < 96 else worth(net))
    )
    assert "expansion.3" not in {step.change.split()[0] for step in steps}
    with pytest.raises(ConfigError, match="no proposal of step 1 could be tuned"):
        run_search(
            start,
            tmp_path / "all",
            SimulatedEngine(lambda net: worth(net) if net.blocks == start.network(10, 1).blocks else -1),
        )
    with pytest.raises(ConfigError, match="the start network could not be trained"):
        run_search(start, tmp_path / "seed", SimulatedEngine(lambda net: -1))


def test_an_unreachable_target_raises_with_the_cost_that_was_reached(start, tmp_path):
    with pytest.raises(ConfigError, match=r"no proposal saves 5.0% at \d\d% .*; give a target above 0\.\d\d, or a sm"):
        run_search(start, tmp_path / "far", target=0.1, delta=0.05)
    with pytest.raises(ConfigError, match=r"no proposal saves 30.0% at 100% .*; give a smaller delta"):
        run_search(start, tmp_path / "wide", delta=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"target": 1.0}, "target must be above 0 and below 1"), ({"delta": 0.0}, "delta"), ({"tune_steps": 0}, "steps"),
     ({"tune_lr": -1.0}, "tune_lr")],
)  # fmt: skip
def test_settings_of_a_search_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        NetAdapt(**settings)


def test_end_to_end_on_real_images(tmp_path, images, short_model, capsys):
    out = tmp_path / "results"
    arguments = [f"--out={out}", "--dataset=imagefolder", f"--data_dir={images}", "--resolution=28",
                 f"--model={short_model}", "--recipe=quick", "--epochs=1", "--batch_size=8", "--lr=0.05",
                 "--runtime=madds", "--target=0.96", "--delta=0.02", "--tune_steps=2", "--seeds=2", "--name=n",
                 "--workers=1"]  # fmt: skip
    assert search.main([*arguments, "--tunesteps=2"]) == 2
    assert "Did you mean tune_steps" in capsys.readouterr().err
    assert search.main([*arguments[:-3], "--runtime=litrt"]) == 2
    assert search.main([*arguments, "--head=ssdlite", "--dataset=scenes"]) == 2
    assert search.main(arguments) == 0
    output = capsys.readouterr().out
    assert "[1]" in output
    assert "target reached\n" in output
    for name in (TRACE, FOUND_NETWORK, "n-trace.png", "n.yaml", "runs.csv", "summary.csv", "report.html"):
        assert (out / "n" / name).is_file(), name
    runs = study_table(out, "n")
    scaled, found, _ = study_table(out, "n", "summary.csv")["cell"]
    assert found == f"model={out / 'n' / FOUND_NETWORK}"
    assert "target_madds" in scaled
    madds = runs.groupby("cell")["madds"].first()
    assert madds[found] == pytest.approx(madds[scaled], rel=0.1)  # few widths differ in so few blocks
    assert set(load(out)["run_id"]) == set(runs["run_id"])  # proposals are not runs of the study
    assert len(list((out / "n" / NETWORKS).glob("*.yaml"))) >= 4
    results = len(list(out.rglob(RESULT)))
    assert search.main(arguments) == 0  # everything is finished
    assert len(list(out.rglob(RESULT))) == results
