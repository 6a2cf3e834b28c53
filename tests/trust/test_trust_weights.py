"""Weights are what they claim to be: downloads are checked by hash, given ones are identified by their content."""

import hashlib
import io
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from support.attack import Attack
from torchvision import models

import mnet
from mnet.errors import ConfigError
from mnet.studies import Trial

V2 = "mobilenet_v2"


@dataclass
class Published:
    """Replaces torchvision's entry for a file."""

    url: str

    def get_state_dict(self, **options):
        return torch.hub.load_state_dict_from_url(self.url, **options)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publishes a content in torchvision's place; returns the path that it will have in torch's cache."""

    def publish(content: object):
        torch.save(content, stream := io.BytesIO())
        path = tmp_path / f"{V2}-{hashlib.sha256(stream.getvalue()).hexdigest()[:8]}.pth"
        path.write_bytes(stream.getvalue())
        weights = SimpleNamespace(DEFAULT=Published(path.as_uri()))
        monkeypatch.setattr(models, "get_model_weights", lambda _: weights)
        (tmp_path / "hub/checkpoints").mkdir(parents=True, exist_ok=True)
        return tmp_path / "hub/checkpoints" / path.name

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    return publish


@pytest.fixture(scope="module")
def state():
    return models.mobilenet_v2(num_classes=10).state_dict()


def test_a_file_in_the_cache_of_downloads_is_hashed_every_time_and_never_run(publish, state, tmp_path):
    net, marker = mnet.create_model(V2, num_classes=10), tmp_path / "code ran"
    cached = publish(state)
    mnet.load_weights(net, "imagenet")
    mnet.load_weights(net, "imagenet")  # from the cache
    for other in (Attack(marker), {name: tensor + 1 for name, tensor in state.items()}):
        torch.save(other, cached)
        with pytest.raises(ConfigError, match=rf"{cached.name} is not torchvision's file: its SHA-256 .*; remove it"):
            mnet.load_weights(net, "imagenet")
    assert net.stem.conv.weight.equal(state["features.0.0.weight"])
    publish(Attack(marker))  # with the right hash
    with pytest.raises(ConfigError, match="cannot be read as weights") as raised:
        mnet.load_weights(net, "imagenet")
    assert "weights_only" not in str(raised.value)
    assert not marker.exists()


def test_downloaded_weights_are_part_of_a_run_by_their_hash(publish, state):
    ids = []
    for content in (state, {}):
        publish(content)
        ids.append(Trial(model=V2, pretrained="imagenet").run_id)
    assert len({*ids, Trial(model=V2).run_id}) == 3


def test_folders_of_one_name_are_told_apart_by_their_weights_and_runs_by_their_id(tmp_path):
    folders = [tmp_path / name for name in ("mine/final", "theirs/final", "moved/elsewhere")]
    for folder, weights in zip(folders, (b"mine", b"theirs", b"mine"), strict=True):
        folder.mkdir(parents=True)
        (folder / "weights.pt").write_bytes(weights)
        (folder / "config.yaml").write_text(json.dumps(Trial().settings()))
    mine, theirs, moved = (Trial(pretrained=str(folder)).run_id for folder in folders)
    assert mine == moved != theirs
    run = tmp_path / "results/study/runs" / Trial().run_id
    run.mkdir(parents=True)  # its weights may be removed when nothing needs them
    assert Trial(pretrained=str(run)).run_id == replace(Trial(), pretrained=str(run)).run_id
