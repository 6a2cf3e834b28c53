"""Several runs that differ only in their seed, trained as one network. Every task works in it unchanged."""

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
    """Trains the networks of several modules as replicas; logs what each would, after its number: `0/val/loss`.

    A training batch is a list of batches, one per member; a validation batch is shared by all members.
    """

    def __init__(self, members: Sequence[TaskModule]) -> None:
        """
        Args:
            members: With the same network, recipe and task. They have no network of their own until `release`.
        """
        super().__init__()
        self.recipe = members[0].recipe
        self.step_reads_values = members[0].step_reads_values
        self.net = stack([cast(MobileNet, member.net) for member in members]).to(memory_format=torch.channels_last)
        self.members = nn.ModuleList(members)
        self.outputs = [PrecomputedOutput() for _ in members]
        for member, output in zip(members, self.outputs, strict=True):
            member.net = output

    def _each(self) -> Iterator[TaskModule]:
        return iter(cast(Sequence[TaskModule], self.members))

    def seed_step(self, seeds: Sequence[int]) -> None:
        """Draw each member's dropout in the next step from its seed."""
        for layer in self.net.modules():
            if isinstance(layer, ReplicatedDropout):
                layer.seed(seeds)

    def step(self, batch: Sequence[Batch]) -> dict[str, Any]:
        """`loss`: the sum over members. `members`: what each member's step returns."""
        self._run_replicas(torch.cat([images for images, _ in batch], 1))
        steps = [member.step(part) for member, part in zip(self._each(), batch, strict=True)]
        detached = [{name: value.detach() for name, value in step.items()} for step in steps]
        return {"loss": torch.stack([step["loss"] for step in steps]).sum(), "members": detached}

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Sequence[Batch], batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:
            steps = cast(dict[str, list[dict[str, Tensor]]], outputs)["members"]
            self.log_dict({f"{i}/train/{name}": value for i, step in enumerate(steps) for name, value in step.items()})

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
    """Replaces a member's network, and returns what its replica has computed."""

    output: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.output
