"""RMSprop as TensorFlow computes it; the papers' learning rates assume it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSpropTF(Optimizer):
    """RMSprop with epsilon inside the root, a mean square that starts at one, and the learning rate inside the
    momentum buffer: changing the rate does not affect updates already in the buffer.

    Args:
        params: Parameters, or parameter groups.
        lr: Learning rate.
        alpha: Decay of the mean square.
        eps: Added to the mean square before the root.
        momentum: Decay of the update buffer.
        weight_decay: L2, added to the gradient.

    Source: the papers train with TensorFlow's RMSProp; V3 §6.1 and V2 §6.1 give decay and momentum 0.9.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        alpha: float = 0.9,
        eps: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    self.state[param] = {"square": torch.ones_like(param), "update": torch.zeros_like(param)}
            squares = [self.state[param]["square"] for param in params]
            updates = [self.state[param]["update"] for param in params]
            grads: list[Tensor] = [param.grad for param in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, grads, grads, value=1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(updates, group["momentum"])
            torch._foreach_addcdiv_(updates, grads, roots, value=group["lr"])
            torch._foreach_sub_(params, updates)
        return loss
