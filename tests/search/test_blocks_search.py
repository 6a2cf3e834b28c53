"""A search over blocks: its space and reward, better networks, resuming, and the proxy."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import search_blocks
from support.simulated_engine import SimulatedEngine

import mnet
from mnet import ConfigError
from mnet.search.block_search import BlockSearch, best, pareto_front, reward
from mnet.search.block_search import search_blocks as run_search
from mnet.search.blocks import KNOBS, apply_choices, space, stages, unchanged_choices
from mnet.search.proposals import MAdds, resized
from mnet.search.proxy import check_proxy, rank_correlation
from mnet.studies.results.archive import study_table
from mnet.studies.runs.store import CANDIDATES, FOUND_NETWORK, PROXY, WEIGHTS
from mnet.studies.trial import Trial

START = Trial(width=0.5)
NETWORK = START.network(10, 1)


@pytest.mark.parametrize("model", mnet.list_models())
def test_the_start_network_is_in_the_space_and_every_choice_changes_only_its_stage(model):
    network = mnet.describe(model)
    unchanged = unchanged_choices(network)
    assert apply_choices(network, unchanged) == network
    assert len(stages(network)) == sum(row.stride > 1 for row in network.blocks) + (network.blocks[0].stride == 1)
    assert [i for stage in stages(network) for i in stage] == list(range(len(network.blocks)))
    for name, values in space(network).items():
        for value in values:
            changed = apply_choices(network, {**unchanged, name: value})
            pairs = enumerate(zip(network.blocks, changed.blocks, strict=True))
            assert {i for i, (before, after) in pairs if before != after} <= set(
                stages(network)[int(name.partition(".")[0])]
            )


def test_choices_change_the_rows_of_their_stage():
    unchanged = unchanged_choices(NETWORK)
    choices = {
        **unchanged,
        "1.kernel": 5,
        "1.se": True,
        "1.activation": "hswish",
        "2.expansion": 0.5,
        "3.channels": 1.25,
    }
    rows = apply_choices(NETWORK, choices).blocks
    assert all((row.kernel, row.se, row.activation) == (5, True, "hswish") for row in rows[1:3])
    assert [row.expansion for row in rows[3:5]] == [32, 72]  # of 64 and 144
    assert [row.out_channels for row in rows[8:]] == [64] * 3  # of 48
    assert set(KNOBS) == {"kernel", "expansion", "se", "activation", "channels"}


def test_the_reward_is_that_of_mnasnet():
    """MnasNet, equation 2: at the target cost the reward is the accuracy, at twice the cost 4.7% less."""
    assert reward(90.0, 0.7, BlockSearch()) == 90.0
    assert reward(90.0, 1.4, BlockSearch()) == pytest.approx(90 * 2**-0.07)
    assert reward(90.0, 0.35, BlockSearch(w=-0.15)) == pytest.approx(90 * 2**0.15)


SHORT = replace(NETWORK, blocks=tuple(NETWORK.blocks[i] for i in (0, 1, 3, 8)))
"""One block per stage: writing each candidate's blocks to two files takes most of the time of a simulated search."""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Trial:
    path = tmp_path_factory.mktemp("models") / "start.yaml"
    mnet.write_network(SHORT, path)
    return Trial(model=str(path))


def expected_accuracy(network: mnet.Network) -> float:
    """A late 5x5 kernel is worth six points, h-swish two and a half, SE none; size is worth something."""
    rows = network.blocks
    good = sum(6 * (row.kernel == 5) for row in rows[3:]) + sum(2.5 * (row.activation == "hswish") for row in rows)
    return 60 + good + 3 * np.log10(mnet.cost(network, 28).madds)


def costs(networks) -> list[float]:
    whole = MAdds(28)(SHORT)
    return [MAdds(28)(network) / whole for network in networks]


def test_a_search_finds_better_networks_and_resumes_where_it_was_stopped(start, tmp_path):
    settings = BlockSearch(population=10, generations=6, proxy_steps=5)
    engine = SimulatedEngine(expected_accuracy)
    found = run_search(start, costs, settings, tmp_path / "whole", engine)
    assert len(found) == 60
    first, chosen = found.iloc[0], best(found)
    assert (first["cost"], first["accuracy"]) == (1, expected_accuracy(SHORT))
    assert chosen["reward"] == found["reward"].max() > first["reward"]
    late = found[found["generation"] >= 4]["reward"]
    assert late.median() > found[found["generation"] == 0]["reward"].median()
    trial = engine.jobs[0].trial
    assert (trial.full_recipe().epochs, trial.epoch_steps, trial.tested) == (1, 5, False)
    assert not list(tmp_path.rglob(WEIGHTS))
    for after in (0, 7, 23):
        with suppress(KeyboardInterrupt):
            run_search(
                start, costs, settings, tmp_path / "stopped", SimulatedEngine(expected_accuracy, stop_after=after)
            )
    resumed = run_search(start, costs, settings, tmp_path / "stopped", SimulatedEngine(expected_accuracy))
    names = [name for name in found if name != "network"]  # files in different folders
    pd.testing.assert_frame_equal(resumed[names], found[names])

    rows = (tmp_path / "stopped" / CANDIDATES).read_bytes()
    idle = SimulatedEngine(expected_accuracy)
    with pytest.raises(ConfigError, match="another name"):
        run_search(start, lambda networks: costs(networks), settings, tmp_path / "stopped", idle)
    more = run_search(start, costs, replace(settings, generations=7), tmp_path / "stopped", idle)
    assert len(more) == 70
    assert {job.trial.model for job in idle.jobs} <= set(more[more["generation"] == 6]["network"])
    assert rows.splitlines() == (tmp_path / "stopped" / CANDIDATES).read_bytes().splitlines()[: len(rows.splitlines())]


def test_a_candidate_that_fails_is_not_chosen(start, tmp_path):
    engine = SimulatedEngine(
        lambda network: -1 if any(row.se for row in network.blocks[3:]) else expected_accuracy(network)
    )
    start = replace(start, se=False)
    found = run_search(start, costs, BlockSearch(population=6, generations=2), tmp_path, engine)
    assert 0 < found["accuracy"].isna().sum() < len(found)
    assert not np.isnan(best(found)["accuracy"])


def test_no_candidate_beats_one_of_the_pareto_front():
    table = pd.DataFrame({"cost": [1.0, 0.5, 0.7, 0.4, 0.5], "accuracy": [90.0, 85.0, 84.0, 80.0, 86.0]})
    assert pareto_front(table).index.tolist() == [3, 4, 0]


def test_the_proxy_is_checked_by_its_ranking(start, tmp_path):
    wide = np.random.default_rng(0).permutation(20)
    paths = [tmp_path / f"{i}.yaml" for i in range(20)]
    for path, count in zip(paths, wide, strict=True):
        mnet.write_network(resized(SHORT, "expansion.3", 8 * (int(count) + 1)), path)
    candidates = pd.DataFrame({"network": map(str, paths), "run_id": range(20), "accuracy": np.arange(20.0)})
    engine = SimulatedEngine(lambda network: network.blocks[3].expansion / 8)
    table = check_proxy(start, candidates, 5, tmp_path, engine)
    assert table["proxy"].tolist() == [0, 5, 10, 14, 19]  # from the worst to the best
    assert table["full"].tolist() == [wide[i] + 1 for i in (0, 5, 10, 14, 19)]
    assert {(job.trial.epochs, job.trial.epoch_steps, job.trial.tested) for job in engine.jobs} == {(None, None, False)}
    assert (tmp_path / PROXY).is_file()
    same = rank_correlation([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 600])
    assert (same.spearman, same.low, same.high, same.kendall, same.n) == pytest.approx((1, 1, 1, 1, 6))
    none = rank_correlation(list(range(40)), list(np.random.default_rng(1).permutation(40)))
    assert none.low < 0 < none.high
    assert -0.4 < none.low < none.spearman < none.high < 0.4 + abs(none.spearman)
    with pytest.raises(ConfigError, match="three networks"):
        rank_correlation([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"population": 1}, "population"), ({"proxy_checked": 2}, "proxy_checked"), ({"w": 0.1}, "w at most 0")],
)
def test_settings_of_a_search_over_blocks_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        BlockSearch(**settings)


def test_end_to_end_on_real_images(tmp_path, images, short_model, capsys):
    out = tmp_path / "results"
    arguments = [f"--out={out}", "--dataset=imagefolder", f"--data_dir={images}", "--resolution=28",
                 f"--model={short_model}", "--recipe=quick", "--epochs=1", "--workers=1", "--batch_size=8", "--lr=0.05",
                 "--runtime=madds", "--population=3",
                 "--generations=2", "--proxy_steps=2", "--proxy_checked=3", "--seeds=2", "--name=b"]  # fmt: skip
    assert search_blocks.main([*arguments, "--population=0"]) == 2
    assert "population must be at least 2" in capsys.readouterr().err
    assert search_blocks.main(arguments) == 0
    output = capsys.readouterr().out
    assert "[2/2]" in output
    assert "short against full training: Spearman" in output
    for name in (CANDIDATES, PROXY, FOUND_NETWORK, "b-candidates.png", "b.yaml", "runs.csv", "report.html"):
        assert (out / "b" / name).is_file(), name
    found_start = mnet.describe(str(out / "b" / FOUND_NETWORK)) == mnet.describe(short_model)
    cells = 2 if found_start else 3  # the network found, the start network, and the latter scaled to the former's cost
    assert len(study_table(out, "b")) == 2 * cells
