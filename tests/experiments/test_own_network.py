"""A network in a file, which is accepted wherever a model is named."""

from pathlib import Path

import pytest

import mnet
from mnet import ConfigError, Toggles
from mnet.studies.trial import Trial

NETWORK = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1, width=0.5, se=False)


@pytest.fixture
def path(tmp_path):
    mnet.write_network(NETWORK, tmp_path / "network.yaml")
    return str(tmp_path / "network.yaml")


@pytest.mark.parametrize("model", mnet.list_models())
def test_a_written_network_is_read_unchanged(model, tmp_path):
    network = mnet.describe(model, num_classes=7, head=None if model == "mobilenet_v1" else "ssdlite")
    mnet.write_network(network, tmp_path / "one.yml")
    assert mnet.describe(str(tmp_path / "one.yml")) == network


def test_a_network_in_a_file_is_built_described_and_toggled_like_a_published_one(path):
    assert mnet.create_model(path).network == NETWORK  # with its classes and channels
    assert mnet.create_model(path, num_classes=3, in_channels=3).network.num_classes == 3
    assert mnet.describe(path, activation="relu") == Toggles(activation="relu").apply(NETWORK)
    assert mnet.describe("mobilenet_v2").num_classes == 1000
    with pytest.raises(ConfigError, match=r"the rows already include width 0\.5"):
        mnet.describe(path, width=0.25)
    assert Trial(model=path).run_id == Trial(width=0.5, se=False).run_id  # the same network by another name
    assert Trial(model=path, activation="relu").run_id != Trial(model=path).run_id


def test_a_changed_file_is_another_network(path):
    before = Trial(model=path).run_id
    mnet.write_network(mnet.describe("mobilenet_v2", width=0.25), Path(path))
    assert Trial(model=path).run_id != before


@pytest.mark.parametrize(
    ("content", "message"),
    [("- 1", "it must be a mapping"), ("name: [", "network.yaml: while parsing"),
     ("name: x", "KeyError|not a network"), ("nome: x", "unknown keys in a network: nome")],
)  # fmt: skip
def test_a_file_without_a_network_is_an_error_that_names_the_file(path, content, message):
    Path(path).write_text(content)
    with pytest.raises(ConfigError, match=message):
        mnet.describe(path)
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        Trial(model="none.yaml")
