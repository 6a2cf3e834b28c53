"""Batches of one image are refused where a batch norm would have one value per channel, and nowhere else."""

from __future__ import annotations

from typing import cast

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mnet import describe
from mnet.data.targets import Masks
from mnet.errors import ConfigError
from mnet.models.network import create_model
from mnet.models.single_values import check_batch_of_one, find_single_value
from mnet.studies.trial import Trial
from mnet.tasks.segmentation import ASPPSegmenter
from mnet.training.recipes import recipe


@pytest.mark.parametrize(
    ("head", "resolution", "layer"),
    [
        ("r_aspp", 64, "head.pooled"),
        ("r_aspp", 320, "head.pooled"),
        ("lr_aspp", 64, None),
        ("ssdlite", 320, "head.extra.3.1"),
        (None, 32, "blocks.8.depthwise"),
        (None, 64, None),
    ],
)
def test_the_check_agrees_with_torch(head: str | None, resolution: int, layer: str | None) -> None:
    network = describe("mobilenet_v3_small", head=head, width=0.35, num_classes=3)
    assert find_single_value(network, resolution) == layer
    net, images = create_model(network).train(), torch.randn(1, 3, resolution, resolution)
    if layer is None:
        check_batch_of_one(network, resolution)
        net(images)
        return
    with pytest.raises(ConfigError, match=rf"batch_size is 1 .*{layer} .*use batch_size=2"):
        check_batch_of_one(network, resolution)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(images)


def test_v4_normalises_what_was_pooled_and_trains_on_no_single_image() -> None:
    assert find_single_value(describe("mobilenet_v4_conv_small", num_classes=3), 224) == "hidden"
    with pytest.raises(ConfigError, match="batch norm of hidden"):
        Trial(model="mobilenet_v4_conv_small", dataset="imagefolder", batch_size=1)


def test_a_trial_of_single_images_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="batch_size is 1"):
        Trial(dataset="voc", head="r_aspp", resolution=64, batch_size=1)
    Trial(dataset="voc", head="lr_aspp", resolution=64, batch_size=1)
    Trial(dataset="voc", head="r_aspp", resolution=64, batch_size=2)
    with pytest.raises(ConfigError, match="at resolution 32 the batch norm"):
        Trial(dataset="imagefolder", resolution=32, batch_size=1)
    Trial(dataset="imagefolder", batch_size=1)


def test_a_batch_that_comes_out_as_one_image_is_refused_before_the_first_step() -> None:
    """For example when a batch is divided among devices, or when there is only one training image."""
    network = describe("mobilenet_v3_small", head="r_aspp", width=0.35, num_classes=3)
    module = ASPPSegmenter(network, recipe("quick"))
    batch: tuple[Tensor, Masks] = torch.randn(1, 3, 64, 64), Masks(torch.zeros(1, 64, 64, dtype=torch.uint8))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=1, accelerator="cpu", **quiet)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size is 1 per device"):
        trainer.fit(module, DataLoader(cast(Dataset[object], [batch]), batch_size=None))
