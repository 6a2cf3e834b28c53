"""SSDLite's boxes and loss: against torchvision's with copied weights, and by hand."""

import pytest
import torch
from support.networks import SSDLITE, lively
from torchvision.models import detection

import mnet
from mnet.data.targets import Boxes, pad_boxes
from mnet.tasks import SSDLiteDetector
from mnet.tasks.boxes import Decoder, DefaultBoxes
from mnet.training.recipes import recipe


@pytest.fixture(scope="module")
def pair():
    """torchvision's detector, and SSDLiteDetector with its weights."""
    reference = lively(
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    ).eval()
    network = mnet.describe("mobilenet_v3_large", num_classes=10, **SSDLITE)
    detector = SSDLiteDetector(network, recipe("quick")).eval()
    mnet.load_torchvision(detector.net, reference.state_dict())
    return reference, detector


def test_detections_equal_torchvisions(pair):
    reference, detector = pair
    images = torch.rand(3, 3, 320, 320)
    with torch.no_grad():
        expected = reference(list(images))
        outputs = detector.net(images * 2 - 1)  # the scaling of torchvision's transform
        detections = detector.decoder(images).detect(outputs)
    for actual, wanted in zip(detections, expected, strict=True):
        assert len(wanted["boxes"]) == 300
        torch.testing.assert_close(actual.scores, wanted["scores"], rtol=1e-4, atol=1e-5)
        # boxes with equal scores may be in another order, so each is compared with its nearest
        distance = (actual.boxes[:, None] - wanted["boxes"]).abs().amax(2)
        distance[actual.labels[:, None] != wanted["labels"]] = 999
        assert (distance.amin(1) < 0.05).float().mean() > 0.98
        assert (distance.diag() < 0.05).float().mean() > 0.9


def test_the_loss_equals_torchvisions(pair):
    reference, detector = pair
    images = torch.rand(3, 3, 320, 320)
    boxes = torch.tensor([[10.0, 20, 120, 200], [50, 60, 300, 310], [0, 0, 20, 30]])
    objects = [
        (boxes, torch.tensor([3, 10, 1])),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
        (boxes[:1], torch.tensor([2])),
    ]
    reference.train()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = reference(list(images), [{"boxes": boxes, "labels": labels} for boxes, labels in objects])
    loss = detector.decoder(images).loss(detector.net(images * 2 - 1), pad_boxes(objects))
    reference.eval()
    torch.testing.assert_close(loss, sum(losses.values()), rtol=1e-4, atol=1e-4)


def test_c4_has_three_boxes_per_position_and_the_other_maps_six_in_the_order_of_the_scores():
    """V3's detectors at 320 px: 20 x 20 x 3 + (10 x 10 + 5 x 5 + 3 x 3 + 2 x 2 + 1) x 6."""
    network = mnet.describe("mobilenet_v3_large", head="ssdlite", num_classes=10)
    default = DefaultBoxes(network.head.boxes).for_images(network, (320, 320))
    assert default.shape == (1200 + 139 * 6, 4)
    assert mnet.create_model(network).eval()(torch.zeros(1, 3, 320, 320)).shape == (1, 2034, 15)
    width, height = (default[:, 2:] - default[:, :2]).unbind(1)
    middle = (default[:, 2:] + default[:, :2]) / 2
    at = 3 * (7 * 20 + 4)  # row 7, column 4 of the finest map
    torch.testing.assert_close(middle[at : at + 3], torch.tensor([[4.5 * 16, 7.5 * 16]]).expand(3, 2))
    torch.testing.assert_close(width[at : at + 3] / 320, torch.tensor([0.1, 0.2 * 2**0.5, 0.2 / 2**0.5]))
    torch.testing.assert_close(height[at : at + 3] / 320, torch.tensor([0.1, 0.2 / 2**0.5, 0.2 * 2**0.5]))


def test_exact_outputs_give_exact_detections():
    """The objects' codes with certain scores: every object is detected once, and nothing else."""
    network = mnet.describe("mobilenet_v2", head="ssdlite", num_classes=4)
    decoder = Decoder(DefaultBoxes(network.head.boxes).for_images(network, (96, 96)), (96, 96))
    objects = [
        (torch.tensor([[5.0, 6, 40, 50], [50, 40, 90, 95]]), torch.tensor([4, 1])),
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]
    target = pad_boxes(objects)
    matched = decoder.match(target)
    assert (matched[0] >= 0).sum() >= 2
    assert (matched[1] == -1).all()
    outputs = torch.zeros(2, len(decoder.default), 4 + 1 + 4)
    outputs[..., 0] = 20.0
    for box in torch.where(matched[0] >= 0)[0]:
        index = matched[0, box]
        outputs[0, box, 0], outputs[0, box, target.labels[0, index]] = 0.0, 20.0
        outputs[0, box, 5:] = decoder.coder.encode_single(target.boxes[0, index][None], decoder.default[box][None])[0]
    first, second = decoder.detect(outputs)
    assert len(second.boxes) == 0
    assert first.labels.sort().values.tolist() == [1, 4]
    order = first.labels.argsort(descending=True)
    torch.testing.assert_close(first.boxes[order], objects[0][0], rtol=0, atol=0.01)
    assert decoder.loss(outputs, target) < 1e-3
    outputs[0, :, :5] = torch.tensor([20.0, 0, 0, 0, 0])
    assert decoder.loss(outputs, target) > 10


def test_a_batch_of_empty_images_has_a_finite_loss_and_gradient():
    network = mnet.describe("mobilenet_v3_small", head="ssdlite", num_classes=4, in_channels=1, width=0.35)
    model = SSDLiteDetector(network, recipe("quick")).train()
    empty = Boxes(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    loss = model.training_step((torch.randn(2, 1, 96, 96), empty), 0)["loss"]
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_map_is_100_for_the_truth_itself_and_counts_a_false_alarm():
    network = mnet.describe("mobilenet_v3_small", head="ssdlite", num_classes=2, in_channels=1, width=0.35)
    model = SSDLiteDetector(network, recipe("quick")).eval()
    metric = model.metrics()["boxes"]
    truth = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}
    metric.update([{**truth, "scores": torch.tensor([0.9])}], [truth])
    assert metric.compute()["map"] == 1
    metric.reset()
    alarm = {"boxes": torch.tensor([[60.0, 60, 90, 90], [5, 5, 40, 40]]), "labels": torch.tensor([1, 1])}
    metric.update([{**alarm, "scores": torch.tensor([0.95, 0.9])}], [truth])
    assert metric.compute()["map"] == pytest.approx(0.5, abs=0.01)
