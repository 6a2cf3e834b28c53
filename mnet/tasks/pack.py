"""Several runs that differ only in their seed, trained as one network. Every task works in a pack unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from mnet.models.network import MobileNet, create_model
from mnet.models.replicas import ReplicatedDropout, split, stack, take_apart
from mnet.tasks.module import LOG_STEPS, Batch, TaskModule, TrainedModule


class Pack(TrainedModule):
    """Trains the networks of several modules as replicas; logs each one's values after its number: `0/val/loss`.

    A training batch is the members' images side by side, (N, K * C, H, W), and a list of their targets; a validation
    batch is shared by all members.
    """

    def __init__(self, members: Sequence[TaskModule]) -> None:
        """
        Args:
            members: Modules with the same network, recipe and task. They have no network of their own until `release`.
        """
        super().__init__()
        self.recipe = members[0].recipe
        self.step_reads_values = members[0].step_reads_values
        self.net = stack([cast(MobileNet, member.net) for member in members]).to(memory_format=torch.channels_last)
        self._dropouts = [layer for layer in self.net.modules() if isinstance(layer, ReplicatedDropout)]
        self.members = nn.ModuleList(members)
        self.outputs = [PrecomputedOutput() for _ in members]
        for member, output in zip(members, self.outputs, strict=True):
            member.net = output

    def _each(self) -> Iterator[TaskModule]:
        return iter(cast(Sequence[TaskModule], self.members))

    def seed_step(self, seeds: Sequence[int]) -> None:
        """Draw each member's dropout in the next step from its seed."""
        for layer in self._dropouts:
            layer.seed(seeds)

    def step(self, batch: tuple[Tensor, Sequence[Any]]) -> dict[str, Any]:
        """`loss`: the sum over members. `members`: what each member's step returns, by name, (members,)."""
        images, targets = batch
        self._run_replicas(images)
        steps = [member.step((images, target)) for member, target in zip(self._each(), targets, strict=True)]
        by_name = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        return {"loss": by_name["loss"].sum(), "members": {name: values.detach() for name, values in by_name.items()}}

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:
            members = cast(dict[str, dict[str, Tensor]], outputs)["members"]
            values = {name: each.detach().unbind() for name, each in members.items()}
            self.log_dict({f"{i}/train/{name}": one for name, each in values.items() for i, one in enumerate(each)})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._show_to_all(batch)
        for member in self._each():
            member.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for i, member in enumerate(self._each()):
            self.log_dict({f"{i}/{name}": value for name, value in member.read(member.val_metrics, "val/").items()})

    def on_test_start(self) -> None:
        for member in self._each():
            member.on_test_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._show_to_all(batch)
        for member in self._each():
            member.test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        for i, member in enumerate(self._each()):
            self.log_dict({f"{i}/{name}": value for name, value in member.read(member.test_metrics, "test/").items()})

    def _show_to_all(self, batch: Batch) -> None:
        """Compute all members' outputs for the same images."""
        images, _ = batch
        self._run_replicas(images.repeat(1, len(self.members), 1, 1))

    def _run_replicas(self, images: Tensor) -> None:
        """Compute all members' outputs for images (N, K * C, H, W); the members' networks then return them."""
        outputs = self.run_network(images.contiguous(memory_format=torch.channels_last))
        for member, output in zip(self.outputs, take_apart(outputs, len(self.outputs)), strict=True):
            member.output = output

    def release(self) -> None:
        """Give every member a network again, with the weights of its replica."""
        states = split(self.net.state_dict(), len(self.members))
        dtype = next(self.net.parameters()).dtype
        for member, state in zip(self._each(), states, strict=True):
            member.net = create_model(member.network).to(dtype).to(memory_format=torch.channels_last)
            member.net.load_state_dict(state)


class PrecomputedOutput(nn.Module):
    """Replaces a member's network and returns its replica's output once: a reference kept longer would keep alive the
    step's activations and, if recorded, its gradient accumulators."""

    output: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        output, self.output = self.output, None
        assert output is not None, "a member's network was called twice in a step"
        return output
