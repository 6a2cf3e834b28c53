"""A second interval for a difference: test images resampled within resampled seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mnet.errors import ConfigError
from mnet.studies.results.statistics import LEVEL


def nested_bootstrap(
    cell: Mapping[int, np.ndarray], baseline: Mapping[int, np.ndarray], *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of cell minus baseline, in percentage points of accuracy.

    Each replicate draws as many seeds as there are, with replacement, and for each drawn seed N of its images, with
    replacement. Cell and baseline are paired, by seed and by image.

    Tables show it next to the interval of `decide`, which determines the verdict. A bootstrap over few seeds
    underestimates the spread: if seeds differ much more than N images explain (sd of 1 point against 0.3), the nominal
    95% covered 80% at 3 seeds, 87% at 5, 91% at 10 and 95% at 30 (600 to 1,500 simulated studies each; the t interval
    covered 95% at every number). If image noise is the only noise, it is too wide and covers 98 to 99%: the observed
    deltas already contain that noise once. Both intervals apply to new seeds on these test images. Images are resampled
    separately for each seed, which does not simulate a new test set: if seeds share half of the image noise (both sd
    0.3), coverage of the difference on new images fell to 69% (t) and 74% (bootstrap) at 10 seeds, because more seeds
    do not average that noise out.

    Args:
        cell: Seed -> which test images were classified correctly: booleans (N,).
        baseline: The same for the baseline, with the same images in the same order.
        resamples: Replicates.
        seed: Seed of the random generator; the same seed gives the same interval.

    Returns:
        low and high; nan if fewer than two seeds have both runs.

    Raises:
        ConfigError: Arrays are not booleans (N,), are empty, or differ in length; `resamples` is below 1.
    """
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, not {resamples}")
    seeds = sorted(cell.keys() & baseline.keys())
    sizes = {
        _count_images(name, run, correct[run])
        for name, correct in (("cell", cell), ("baseline", baseline))
        for run in seeds
    }
    if len(sizes) > 1:
        raise ConfigError(f"runs were tested on {sorted(sizes)} images; expected the same images in the same order")
    if len(seeds) < 2:
        return math.nan, math.nan
    (images,) = sizes
    differences = np.stack([cell[run].astype(np.int8) - baseline[run] for run in seeds])  # (seeds, N), of -1, 0, 1
    # With three values, N draws with replacement are one draw of three counts.
    shares = np.stack([(differences == value).mean(axis=1) for value in (1, -1, 0)], axis=1)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(seeds), size=(resamples, len(seeds)))
    counts = generator.multinomial(images, shares[drawn])  # (resamples, seeds, 3)
    deltas = 100 * (counts[..., 0] - counts[..., 1]).mean(axis=1) / images
    low, high = np.quantile(deltas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _count_images(name: str, seed: int, correct: np.ndarray) -> int:
    """The number N of images in booleans (N,).

    Raises:
        ConfigError: The array is something else, such as labels, which would count as correct unless they are 0.
    """
    if correct.dtype != bool or correct.ndim != 1 or not len(correct):
        raise ConfigError(
            f"{name}, seed {seed}: expected booleans (N,), one per test image, not {correct.dtype} of shape "
            f"{correct.shape}"
        )
    return len(correct)
