"""What NetAdapt may do next."""

import pytest

import mnet
from mnet.search.proposals import DIVISOR, MAdds, proposals, resized
from mnet.weights.truncation import bottleneck_spaces, sizes

MODELS = [(model, {}) for model in mnet.list_models()] + [("mobilenet_v2", {"shortcut": "none"})]


@pytest.mark.parametrize(("model", "toggles"), MODELS, ids=str)
def test_each_takes_as_few_channels_as_save_enough_from_one_place(model, toggles):
    network, cost = mnet.describe(model, num_classes=10, **toggles), MAdds(64)
    least = 0.01 * cost(network)
    found = list(proposals(network, cost, least))
    before = sizes(network)
    assert len(found) > 5
    for one in found:
        after = sizes(one.network)
        others = {space for space in before if before[space] != after[space]} - {one.space}
        assert others <= {one.space.replace("expansion", "squeeze")}
        assert (before[one.space], after[one.space]) == (one.before, one.after)
        assert one.after % DIVISOR == 0
        assert cost(network) - one.cost >= least
        assert one.cost == cost(one.network)
        assert bottleneck_spaces(one.network) == bottleneck_spaces(network)
        more = resized(network, one.space, one.after + DIVISOR)
        enough = cost(network) - cost(more) >= least
        assert not enough or bottleneck_spaces(more) != bottleneck_spaces(network)


def test_blocks_that_shortcuts_join_are_narrowed_together_and_none_is_joined_by_chance():
    network = mnet.describe("mobilenet_v3_small")
    found = {one.space: one for one in proposals(network, MAdds(224), 1e-3)}
    assert [row.out_channels for row in found["bottleneck.3"].network.blocks[3:6]] == [32] * 3
    # one step down from 48 are 40 channels, which a new shortcut would add to those of the block before
    assert (found["bottleneck.6"].before, found["bottleneck.6"].after) == (48, 32)
    assert {space.partition(".")[0] for space in found} == {"expansion", "bottleneck"}
    large = mnet.describe("mobilenet_v3_large")  # its first block has a shortcut from the stem
    (stem,) = [one for one in proposals(large, MAdds(224), 1e-3) if one.space == "stem"]
    assert stem.network.stem.out_channels == stem.network.blocks[0].out_channels == 8


def test_what_is_as_narrow_as_it_can_be_is_not_proposed():
    network = mnet.describe("mobilenet_v3_small", width=0.05)
    assert {one.before for one in proposals(network, MAdds(64), 0.0)}.isdisjoint({DIVISOR})
    assert not list(proposals(network, MAdds(64), 1e9))
