"""The nested bootstrap: against a loop that resamples images one by one, and on simulated truth."""

import math

import numpy as np
import pytest

from mnet import ConfigError
from mnet.studies.results.bootstrap import nested_bootstrap

Runs = dict[int, np.ndarray]


def right(first: int, images: int) -> np.ndarray:
    """A run that is right on the first `first` of its images."""
    return np.arange(images) < first


def simulated(generator: np.random.Generator, seeds: int, images: int, effect: float, sd: float) -> tuple[Runs, Runs]:
    """Cell and baseline with effect and seed-to-seed sd in points; 30% of the images are answered differently."""
    cell, baseline = {}, {}
    for seed in range(seeds):
        delta = generator.normal(effect, sd) / 100
        draw = generator.random(images)
        better, worse = draw < 0.15 + delta / 2, draw > 0.85 + delta / 2
        both = generator.random(images) < 0.8
        cell[seed], baseline[seed] = better | (both & ~worse), worse | (both & ~better)
    return cell, baseline


def reference(cell: Runs, baseline: Runs, resamples: int) -> tuple[float, float]:
    """The interval by its definition, one image at a time."""
    generator = np.random.default_rng(1)
    deltas = []
    for _ in range(resamples):
        drawn = []
        for seed in generator.choice(list(cell), len(cell)):
            images = generator.integers(len(cell[seed]), size=len(cell[seed]))
            drawn.append(cell[seed][images].mean() - baseline[seed][images].mean())
        deltas.append(100 * np.mean(drawn))
    return tuple(np.percentile(deltas, [2.5, 97.5]))


@pytest.mark.parametrize(("seeds", "sd"), [(3, 0.0), (5, 4.0)])
def test_counts_give_the_interval_of_images_drawn_one_by_one(seeds, sd):
    """Both have a Monte-Carlo error of 2% of the interval's width."""
    cell, baseline = simulated(np.random.default_rng(seeds), seeds, images=300, effect=3.0, sd=sd)
    low, high = reference(cell, baseline, 4000)
    assert nested_bootstrap(cell, baseline) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_seeds_are_resampled():
    """Within a seed all images agree, so only seeds vary: two of them give -100, 0 or +100."""
    every, none = right(50, 50), right(0, 50)
    assert nested_bootstrap({0: every, 1: none}, {0: none, 1: every}) == (-100, 100)


def test_images_are_resampled_anew_for_each_drawn_seed():
    """Seeds agree, so only images vary: sd sqrt(p (1 - p) / (N S)). Images shared by the draws would make it wider."""
    seeds, images = 4, 400
    low, high = nested_bootstrap(
        {s: right(40, images) for s in range(seeds)}, {s: right(0, images) for s in range(seeds)}
    )
    sd = 100 * math.sqrt(0.1 * 0.9 / (images * seeds))
    assert (low, high) == pytest.approx((10 - 1.96 * sd, 10 + 1.96 * sd), abs=0.15 * sd)


def test_cell_and_baseline_are_paired_by_image_and_by_seed():
    """The same network twice differs nowhere, whichever seeds and images are drawn."""
    runs = {seed: right(20 * seed, 100) for seed in range(5)}
    assert nested_bootstrap(runs, dict(reversed(runs.items()))) == (0, 0)


def test_intervals_of_30_seeds_cover_the_truth():
    """A seed sd of 4 points, image noise of 1.7: 1,000 resamples, 400 studies, within three Monte-Carlo errors."""
    generator = np.random.default_rng(0)
    trials, effect, covered = 400, 2.0, 0
    for _ in range(trials):
        low, high = nested_bootstrap(*simulated(generator, 30, 1000, effect, 4.0), resamples=1000)
        covered += low <= effect <= high
    assert 0.92 <= covered / trials <= 0.985


def test_the_same_seed_gives_the_same_interval_in_any_order():
    cell, baseline = simulated(np.random.default_rng(0), 3, 200, 1.0, 1.0)
    once = nested_bootstrap(cell, baseline, resamples=500)
    assert nested_bootstrap(dict(reversed(cell.items())), baseline, resamples=500) == once
    assert nested_bootstrap(cell, baseline, resamples=500, seed=1) != once


def test_seeds_that_one_lacks_are_left_out_and_fewer_than_two_have_no_interval():
    cell, baseline = simulated(np.random.default_rng(0), 3, 200, 1.0, 1.0)
    assert nested_bootstrap(cell | {7: right(1, 9)}, baseline | {8: right(1, 9)}) == nested_bootstrap(cell, baseline)
    assert np.isnan(nested_bootstrap({0: cell[0]}, baseline)).all()
    assert np.isnan(nested_bootstrap({}, baseline)).all()


def test_arrays_that_are_not_booleans_for_the_same_images_are_refused():
    two = {0: right(3, 9), 1: right(4, 9)}
    with pytest.raises(ConfigError, match=r"\[8, 9\] images"):
        nested_bootstrap(two, {0: right(3, 9), 1: right(4, 8)})
    for wrong in (np.arange(9), right(3, 0), right(3, 9)[None]):
        with pytest.raises(ConfigError, match=r"baseline, seed 1: .* booleans"):
            nested_bootstrap(two, two | {1: wrong})
    with pytest.raises(ConfigError, match="resamples must be at least 1, not 0"):
        nested_bootstrap(two, two, resamples=0)
