"""What a comparison says in words."""

import pytest

from mnet.studies.results.sentences import bounds, sentence


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-1.54, 0.1, "at most 1.6 points worse"),
        (-1.50, 0.1, "at most 1.5 points worse"),
        (-0.1, 1.04, "at most 1.1 points better"),
        (-1.2, 0.81, "at most 1.2 points worse or 0.9 better"),
    ],
)
def test_a_bound_is_never_smaller_than_the_interval(low, high, words):
    assert bounds(low, high, 0.5, "points") == words


def test_a_decided_row_names_its_direction_and_an_open_one_its_seeds():
    row = {"delta": -0.69, "low": -1.2, "high": -0.2, "verdict": "down", "pairs": 5, "seeds_needed": float("nan")}
    assert sentence("relu", row, 0.5) == "relu: -0.69 [-1.20, -0.20], worse"
    row |= {"high": 0.1, "verdict": "undecided", "seeds_needed": 12.0}
    assert sentence("relu", row, 0.5, minutes_per_seed=1.0).endswith("about 7 more seeds, 7 minutes")
