"""One trial on several devices: here two processes on the CPU, started by Lightning and connected by gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ablate
import pytest
import torch
import train
import yaml

from mnet.data.augment import Augment, normalise
from mnet.data.batches import ALL, Batches, Shard, shuffled
from mnet.errors import ConfigError
from mnet.seeding import random_seed
from mnet.studies import Trial
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.images import load_data
from mnet.studies.runs.store import CORRECT, METRICS, WEIGHTS, read_correct, read_result

ROOT = Path(__file__).parents[2]
COUNT, SIZE, WORLD = 22, 6, 2
TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2")


def loader(shard: Shard = ALL, *, train: bool = True, augment: Augment | None = None) -> Batches:
    images = torch.randint(256, (COUNT, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batches(
        images, torch.arange(COUNT), batch_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1),
        train=train, augment=augment, seed=3, shard=shard,
    )  # fmt: skip


def epoch(batches: Batches, number: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches.set_epoch(number)
    return list(batches)


def test_the_shards_of_all_devices_add_up_to_the_batch_at_every_step_without_repeats():
    shards = [epoch(loader(Shard(rank, WORLD))) for rank in range(WORLD)]
    whole = epoch(loader())
    assert [len(shard) for shard in shards] == [len(whole)] * WORLD
    for (images, labels), *parts in zip(whole, *shards, strict=True):
        assert not set(parts[0][1].tolist()) & set(parts[1][1].tolist())
        for rank, (part_images, part_labels) in enumerate(parts):
            assert part_labels.equal(labels[rank::WORLD])
            assert part_images.equal(images[rank::WORLD])


def test_devices_augment_differently_and_a_single_device_as_without_shards():
    augment = Augment(flip=True, pad=2, erase=0.5)
    single, order = loader(augment=augment), shuffled(COUNT, 3, 1)
    for index, (images, _) in enumerate(epoch(single)):
        pixels = single._pixels[order[index * SIZE : (index + 1) * SIZE]].permute(0, 3, 1, 2)
        generator = torch.Generator().manual_seed(random_seed("augment", 3, 1, index))
        assert images.equal(normalise(pixels, torch.full((3,), 1 / 255), torch.zeros(3), augment, generator))
    assert Shard(0, 1).keys == ()
    assert Shard(0, 2).keys != Shard(1, 2).keys


def test_every_device_evaluates_every_image_in_order():
    labels = torch.cat([part for _, part in loader(Shard(1, WORLD), train=False)])
    assert labels.equal(torch.arange(COUNT))


@pytest.fixture
def settings(images, tiny_model) -> dict[str, object]:
    return {"dataset": "imagefolder", "data_dir": str(images), "resolution": 28, "model": tiny_model, "batch_size": 10}


def test_the_shard_of_the_data_is_lightnings_rank(settings):
    trial = Trial(**{**settings, "data_dir": Path(settings["data_dir"])})
    data = load_data(trial, trial.full_recipe())
    single = data.train_dataloader()
    images = RunImages(data)
    images.trainer = SimpleNamespace(
        global_rank=1, world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    assert (single.shard, images.train_dataloader().shard) == (ALL, Shard(1, 2))


def test_a_batch_that_devices_cannot_split_equally_is_an_error(settings, tmp_path, capsys):
    with pytest.raises(ConfigError, match="batch_size is 6, over all devices together, and there are 4 devices"):
        loader(Shard(3, 4))
    options = [f"--{name}={value}" for name, value in {**settings, "batch_size": 15}.items()]
    assert train.main([*options, *TWO, f"--out={tmp_path}"]) == 2
    assert "batch_size is 15, over all devices together, and there are 2 devices" in capsys.readouterr().err


def test_a_cluster_gives_a_trial_one_device(settings, tmp_path, capsys):
    options = [f"--{name}={value}" for name, value in settings.items()]
    assert ablate.main(["activation", *options, *TWO, "--engine=ray", f"--out={tmp_path}"]) == 2
    assert "more than one needs --engine=local" in capsys.readouterr().err


@pytest.fixture(scope="module")
def options(images, tiny_model) -> list[str]:
    """Options of a study of one cell, or of its only run."""
    settings = {"dataset": "imagefolder", "data_dir": images, "resolution": 28, "model": tiny_model, "batch_size": 10}
    return [f"--{name}={value}" for name, value in (settings | {"epochs": 2, "activation": "relu"}).items()]


@pytest.fixture(scope="module")
def study(options, tmp_path_factory) -> Path:
    """The folder of the only run of a study on two devices."""
    out = tmp_path_factory.mktemp("devices")
    assert ablate.main(["activation", *options, *TWO, "--seeds=1", "--report=false", f"--out={out}"]) == 0
    (folder,) = out.glob("trainer-*/activation/runs/*")
    return folder


def test_a_study_on_two_devices_tests_every_image_once(study):
    result, correct = read_result(study), read_correct(study)
    assert len(correct) == 20
    assert result["top1"] == pytest.approx(100 * correct.mean())
    assert result["device"].startswith("2 x ")


@pytest.mark.full("stopping and going on is tested on one device, and sharing a batch without processes")
def test_a_run_on_two_devices_that_is_stopped_and_resumed_ends_the_same(study, tmp_path):
    def call(*arguments: object) -> subprocess.CompletedProcess:
        command, environment = [sys.executable, *map(str, arguments)], {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)

    config = yaml.safe_load((study / "config.yaml").read_text())
    trainer = config.pop("trainer")
    order = {
        "trial": config,
        "root": str(tmp_path / study.parents[2].name),
        "study": "train",
        "trainer": trainer,
        "compile": "off",
        "checkpoint_s": 30.0,
    }
    stopped = call("-m", "mnet.studies.engines.devices", json.dumps(order))  # no parent reads its progress
    assert json.loads(stopped.stdout.splitlines()[-1])["reason"] == "Stopped: asked to stop"
    (folder,) = tmp_path.glob("trainer-*/train/runs/*")
    assert torch.load(folder / "resume.ckpt", weights_only=True)["global_step"] == 1
    done = call(ROOT / "experiments/train.py", f"--config={study / 'config.yaml'}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: ") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in study.iterdir())
    for name in (METRICS, CORRECT, WEIGHTS):
        assert (folder / name).read_bytes() == (study / name).read_bytes(), name
