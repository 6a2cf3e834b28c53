"""Several runs that differ in their seed alone, trained as one network. Every task works in it as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from mnet.models.network import MobileNet, create_model
from mnet.models.replicas import ReplicatedDropout, split, stack, take_apart
from mnet.tasks.module import LOG_STEPS, Batch, TaskModule, Trained


class Pack(Trained):
    """Trains the networks of several modules as replicas; logs what each would, after its number: `0/val/loss`.

    A training batch is a list of them, one a member; a validation batch is one, which all members see.
    """

    def __init__(self, members: Sequence[TaskModule]) -> None:
        """
        Args:
            members: Of one network, recipe and task. Their networks are taken over, until `release`.
        """
        super().__init__()
        self.recipe = members[0].recipe
        self.net = stack([cast(MobileNet, member.net) for member in members]).to(memory_format=torch.channels_last)
        self.members = nn.ModuleList(members)
        self.said = [PrecomputedOutput() for _ in members]
        for member, said in zip(members, self.said, strict=True):
            member.net = said

    @property
    def alone(self) -> Iterator[TaskModule]:
        """The members."""
        return iter(cast(Sequence[TaskModule], self.members))

    def seed_step(self, seeds: Sequence[int]) -> None:
        """Draw each member's dropout in the next step from a seed of its own."""
        for layer in self.net.modules():
            if isinstance(layer, ReplicatedDropout):
                layer.seeds = seeds

    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> dict[str, Any]:
        """`loss` of all together, and `members`: what each one's step returns."""
        self.ask(torch.cat([images for images, _ in batch], 1))
        told = [member.training_step(own, batch_idx) for member, own in zip(self.alone, batch, strict=True)]
        shown = [{name: value.detach() for name, value in one.items()} for one in told]
        return {"loss": torch.stack([one["loss"] for one in told]).sum(), "members": shown}

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Sequence[Batch], batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:
            told = cast(dict[str, list[dict[str, Tensor]]], outputs)["members"]
            self.log_dict({f"{i}/train/{name}": value for i, one in enumerate(told) for name, value in one.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, _ = batch
        self.ask(images.repeat(1, len(self.members), 1, 1))
        for member in self.alone:
            member.evaluate(member.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        for i, member in enumerate(self.alone):
            self.log_dict({f"{i}/{name}": value for name, value in member.read(member.val_metrics, "val/").items()})

    def ask(self, images: Tensor) -> None:
        """Let the members' networks say what the replicas say of these images, (N, K * C, H, W)."""
        told = self.answers(images.contiguous(memory_format=torch.channels_last))
        for said, own in zip(self.said, take_apart(told, len(self.said)), strict=True):
            said.answer = own

    def release(self) -> None:
        """Give every member a network of its own again, as its replica has become."""
        states = split(self.net.state_dict(), len(self.members))
        for member, state in zip(self.alone, states, strict=True):
            member.net = create_model(member.network).to(memory_format=torch.channels_last)
            member.net.load_state_dict(state)


class PrecomputedOutput(nn.Module):
    """Stands where a member's network was, and says what its replica has said."""

    answer: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.answer
