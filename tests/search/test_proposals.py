"""NetAdapt's proposals."""

import pytest

import mnet
from mnet.search.proposals import DIVISOR, MAdds, proposals, resized
from mnet.weights.truncation import bottleneck_spaces, sizes

MODELS = [(model, {}) for model in mnet.list_models()] + [("mobilenet_v2", {"shortcut": "none"})]


@pytest.mark.parametrize(("model", "toggles"), MODELS, ids=str)
def test_each_proposal_removes_as_few_channels_as_possible_from_one_space(model, toggles):
    network, cost = mnet.describe(model, num_classes=10, **toggles), MAdds(64)
    least = 0.01 * cost(network)
    candidates = list(proposals(network, cost, least))
    before = sizes(network)
    assert len(candidates) > 5
    for proposal in candidates:
        after = sizes(proposal.network)
        changed = {space for space in before if before[space] != after[space]} - {proposal.space}
        assert changed <= {proposal.space.replace("expansion", "squeeze")}
        assert (before[proposal.space], after[proposal.space]) == (proposal.before, proposal.after)
        assert proposal.after % DIVISOR == 0
        assert cost(network) - proposal.cost >= least
        assert proposal.cost == cost(proposal.network)
        assert bottleneck_spaces(proposal.network) == bottleneck_spaces(network)
        more = resized(network, proposal.space, proposal.after + DIVISOR)
        enough = cost(network) - cost(more) >= least
        assert not enough or bottleneck_spaces(more) != bottleneck_spaces(network)


def test_blocks_joined_by_shortcuts_are_narrowed_together_and_no_shortcut_is_added():
    network = mnet.describe("mobilenet_v3_small")
    by_space = {proposal.space: proposal for proposal in proposals(network, MAdds(224), 1e-3)}
    assert [row.out_channels for row in by_space["bottleneck.3"].network.blocks[3:6]] == [32] * 3
    # 40 channels, the next step down from 48, would add a shortcut to the block before
    assert (by_space["bottleneck.6"].before, by_space["bottleneck.6"].after) == (48, 32)
    assert {space.partition(".")[0] for space in by_space} == {"expansion", "bottleneck"}
    large = mnet.describe("mobilenet_v3_large")  # its first block has a shortcut from the stem
    (stem,) = [proposal for proposal in proposals(large, MAdds(224), 1e-3) if proposal.space == "stem"]
    assert stem.network.stem.out_channels == stem.network.blocks[0].out_channels == 8


def test_spaces_at_their_narrowest_are_not_proposed():
    network = mnet.describe("mobilenet_v3_small", width=0.05)
    assert {proposal.before for proposal in proposals(network, MAdds(64), 0.0)}.isdisjoint({DIVISOR})
    assert not list(proposals(network, MAdds(64), 1e9))
