"""A network that an end-to-end search can train dozens of times within seconds."""

import dataclasses

import pytest

import mnet


@pytest.fixture(scope="session")
def short_model(tmp_path_factory) -> str:
    """The file of a three-block network, which a search can scale since it has no width yet."""
    network = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)
    path = tmp_path_factory.mktemp("models") / "short_v3.yaml"
    mnet.write_network(dataclasses.replace(network, blocks=network.blocks[3:6]), path)
    return str(path)
