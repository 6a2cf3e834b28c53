"""RMSprop against timm's, which follows TensorFlow."""

from copy import deepcopy

import torch
from timm.optim import RMSpropTF as Oracle

from mnet.training import RMSpropTF


def test_rmsprop_takes_the_same_steps_as_timms():
    start = [torch.randn(4, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    params = [torch.nn.Parameter(value.clone()) for value in start]
    expected = [torch.nn.Parameter(value.clone()) for value in start]
    settings = {"lr": 0.045, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "weight_decay": 4e-5}
    optimizers = RMSpropTF(params, **settings), Oracle(expected, **settings)
    for step in range(25):
        gradients = [torch.randn_like(value) for value in start]
        for optimizer, values in zip(optimizers, (params, expected), strict=True):
            optimizer.param_groups[0]["lr"] = 0.045 * 0.9**step  # the rate is inside the momentum
            for value, gradient in zip(values, gradients, strict=True):
                value.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(params, expected, rtol=1e-12, atol=1e-12)


def test_rmsprop_resumes_from_its_state_dict():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = RMSpropTF([param], lr=0.1)
    param.grad = torch.ones(3)
    optimizer.step()
    twin = torch.nn.Parameter(param.detach().clone())
    resumed = RMSpropTF([twin], lr=0.1)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    twin.grad = torch.ones(3)
    optimizer.step()
    resumed.step()
    assert torch.equal(param, twin)
