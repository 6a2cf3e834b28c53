"""A network of one's own in a file, wherever a model is named."""

from pathlib import Path

import pytest

import mnet
from mnet import ConfigError, Toggles
from mnet.studies.trial import Trial

NETWORK = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1, width=0.5, se=False)


@pytest.fixture
def path(tmp_path):
    mnet.write_network(NETWORK, tmp_path / "own.yaml")
    return str(tmp_path / "own.yaml")


@pytest.mark.parametrize("model", mnet.list_models())
def test_every_network_comes_back_from_its_file(model, tmp_path):
    network = mnet.describe(model, num_classes=7, head=None if model == "mobilenet_v1" else "ssdlite")
    mnet.write_network(network, tmp_path / "one.yml")
    assert mnet.describe(str(tmp_path / "one.yml")) == network


def test_it_is_built_described_and_toggled_as_a_papers_own(path):
    assert mnet.create_model(path).network == NETWORK  # with its own classes and colours
    assert mnet.create_model(path, num_classes=3, in_channels=3).network.num_classes == 3
    assert mnet.describe(path, activation="relu") == Toggles(activation="relu").apply(NETWORK)
    assert mnet.describe("mobilenet_v2").num_classes == 1000
    with pytest.raises(ConfigError, match=r"the rows already include width 0\.5"):
        mnet.describe(path, width=0.25)
    assert Trial(model=path).run_id == Trial(width=0.5, se=False).run_id  # of the same network, however it is named
    assert Trial(model=path, activation="relu").run_id != Trial(model=path).run_id


def test_another_content_is_another_network_at_once(path):
    before = Trial(model=path).run_id
    mnet.write_network(mnet.describe("mobilenet_v2", width=0.25), Path(path))
    assert Trial(model=path).run_id != before


@pytest.mark.parametrize(
    ("content", "said"),
    [("- 1", "it must be a mapping"), ("name: [", "own.yaml: while parsing"), ("name: x", "KeyError|not a network"),
     ("nome: x", "unknown keys in a network: nome")],
)  # fmt: skip
def test_what_is_no_network_is_answered_with_its_file(path, content, said):
    Path(path).write_text(content)
    with pytest.raises(ConfigError, match=said):
        mnet.describe(path)
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        Trial(model="none.yaml")
