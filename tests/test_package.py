"""What `import mnet` loads, how settings are read, and the gradients of activations."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import mnet
from mnet import ConfigError
from mnet.models.layers import ACTIVATIONS
from mnet.settings import coerce

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def test_the_family_imports_torch_alone_and_a_study_lightning_only_where_it_trains():
    heavy = ("lightning", "wandb", "pandas", "torchvision", "torchmetrics", "matplotlib", "timm", "mnet.data")
    code = f"import mnet, sys; print([name for name in {heavy!r} if name in sys.modules])\n"
    code += "import ablate; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=EXPERIMENTS)
    assert done.stdout.splitlines() == ["[]", "False"], done.stderr


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("0.5", float, 0.5),
        (1, float, 1.0),
        (1.0, int, 1),
        ("3", int, 3),
        ("True", bool, True),
        ("paper", int | None, None),
        ("None", bool | None, None),
        ("data", Path, Path("data")),
    ],
)
def test_settings_are_read_in_any_spelling(value, hint, expected):
    read = coerce("x", value, hint)
    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"), [(math.nan, float), ("inf", float), (True, int), (0.5, int), (1, bool), (None, float), ([], str)]
)
def test_settings_that_do_not_fit_are_refused_with_their_value(value, hint):
    with pytest.raises(ConfigError, match="x must be"):
        coerce("x", value, hint)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_correct_next_to_dropout_and_shortcuts(name):
    """An in-place ReLU before an in-place dropout raises in torchvision's V3 head; here nothing is overwritten."""
    torch.manual_seed(3)
    toggles = {"activation": name, "bottleneck": "relu", "shortcut": "bottleneck", "width": 0.25}
    net = mnet.create_model("mobilenet_v3_small", num_classes=4, **toggles).double().train()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.manual_seed(4)
    net(images).square().sum().backward()
    gradients = {key: param.grad.clone() for key, param in net.named_parameters()}
    net.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        plain = getattr(functional, {"hswish": "hardswish", "swish": "silu"}.get(name, name))
        patch.setitem(ACTIVATIONS, name, lambda x, inplace: plain(x.clone()))
        torch.manual_seed(4)
        net(images).square().sum().backward()
    for key, param in net.named_parameters():
        torch.testing.assert_close(gradients[key], param.grad, rtol=1e-9, atol=1e-12)
