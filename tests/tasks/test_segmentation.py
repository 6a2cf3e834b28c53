"""Segmentation's loss and mIoU: by hand, and with unlabelled pixels."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import mnet
from mnet.data.targets import IGNORED, Masks
from mnet.tasks import TASKS, ASPPSegmenter
from mnet.tasks.segmentation import segmentation_loss
from mnet.training.recipes import recipe


@pytest.fixture
def model() -> ASPPSegmenter:
    network = mnet.describe("mobilenet_v3_small", head="lr_aspp", num_classes=3, in_channels=1, width=0.35)
    return ASPPSegmenter(network, recipe("quick")).eval()


class FixedScores(nn.Module):
    """A network that predicts these classes with certainty."""

    def __init__(self, classes: torch.Tensor) -> None:
        super().__init__()
        self.scores = 10.0 * functional.one_hot(classes, 3).permute(0, 3, 1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores


def test_miou_is_over_all_pixels_and_ignores_unlabelled_ones(model):
    """Two images of 4 pixels. Classes 0 and 1 are right twice, predicted wrongly once and missed once."""
    truth = Masks(torch.tensor([[[0, 0], [1, 1]], [[1, IGNORED], [2, 0]]], dtype=torch.uint8))
    predicted = torch.tensor([[[0, 0], [1, 1]], [[0, 2], [2, 1]]])
    model.net = FixedScores(predicted)
    metrics = model._metrics("test/")
    model.evaluate(metrics, (torch.zeros(2, 1, 2, 2), truth))
    values = metrics.compute()
    assert float(values["test/miou"]) == pytest.approx((2 / 4 + 2 / 4 + 1 / 1) / 3)
    assert float(values["test/pixel_accuracy"]) == pytest.approx(5 / 7)


def test_the_loss_is_the_mean_over_labelled_pixels_and_zero_without_any():
    scores = torch.randn(2, 3, 4, 4)
    classes = torch.randint(0, 3, (2, 4, 4))
    classes[0, :2] = IGNORED
    expected = functional.cross_entropy(scores.permute(0, 2, 3, 1)[classes != IGNORED], classes[classes != IGNORED])
    torch.testing.assert_close(segmentation_loss(scores, Masks(classes.to(torch.uint8))), expected)
    unlabelled = Masks(torch.full((2, 4, 4), IGNORED, dtype=torch.uint8))
    assert segmentation_loss(scores, unlabelled) == 0


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_module_logs_the_metrics_of_its_task(task):
    assert task.load().metric_names == tuple(metric.name for metric in task.metrics)
