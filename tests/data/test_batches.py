from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mnet.data.augment import Augment, normalise
from mnet.data.batches import Batches, ReplicatedBatches

COUNT, SIZE = 22, 4  # 5 batches and a remainder


def loader(*, train: bool = True, count: int = COUNT, seed: int = 0, device: str = "cpu") -> Batches:
    images = torch.randint(256, (count, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batches(
        images.to(device), torch.arange(count), batch_size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
        train=train, augment=Augment(flip=True, pad=2, erase=0.5), seed=seed,
    )  # fmt: skip


def fingerprint(batch: tuple[Tensor, Tensor]) -> tuple[float, ...]:
    images, labels = batch
    return (images.double().sum().item(), images.flatten()[::7].double().norm().item(), *labels.tolist())


def epoch(batches: Batches, number: int) -> list[tuple[float, ...]]:
    batches.set_epoch(number)
    return [fingerprint(batch) for batch in batches]


class Recorder(L.LightningModule):
    """Records every training batch; fails at step `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[float, ...]] = []
        self.fail_at = fail_at

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("killed")
        self.seen.append(fingerprint(batch))
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Recorder, folder: Path, every: int, resume: Path | None = None) -> list[tuple[float, ...]]:
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "last", every_n_train_steps=every, save_top_k=1)],
    )  # fmt: skip
    trainer.fit(module, loader(), loader(train=False), ckpt_path=resume)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [1, 3, 4, 5, 7, 10, 12, 14])
def test_a_killed_and_resumed_run_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path, every: int) -> None:
    uninterrupted = fit(Recorder(), tmp_path / "whole", every)
    assert len(set(uninterrupted)) == 15
    killed = Recorder(fail_at=every + 1 if every < 14 else None)
    if every < 14:
        with pytest.raises(RuntimeError, match="killed"):
            fit(killed, tmp_path, every)
    else:
        fit(killed, tmp_path, every)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert fit(Recorder(), tmp_path / "rest", 99, tmp_path / "last.ckpt") == uninterrupted[saved:]


def test_order_and_augmentation_depend_only_on_seed_and_epoch() -> None:
    first, again = loader(), loader()
    assert epoch(first, 0) == epoch(again, 0)
    assert epoch(first, 1) != epoch(first, 0)
    torch.rand(3)
    assert epoch(again, 1) == epoch(first, 1)
    assert epoch(loader(seed=1), 0) != epoch(first, 0)


def test_a_loaded_state_skips_the_batches_before_it_once() -> None:
    batches = loader()
    whole = epoch(batches, 2)
    batches.load_state_dict({"epoch": 2, "position": 3})
    assert epoch(batches, 2) == whole[3:]
    assert epoch(batches, 2) == whole


def test_training_drops_the_remainder_and_evaluation_keeps_it_in_order() -> None:
    assert len(loader()) == 5
    evaluation = loader(train=False)
    assert len(evaluation) == 6
    assert torch.cat([labels for _, labels in evaluation]).equal(torch.arange(COUNT))
    (only,) = loader(count=3)
    assert only[0].shape == (3, 3, 8, 6)


def test_evaluation_images_are_normalised_and_channels_last() -> None:
    batches = loader(train=False)
    images, _ = next(iter(batches))
    raw = torch.randint(256, (COUNT, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor((0.5, 0.4, 0.3)).view(-1, 1, 1), torch.tensor((0.2, 0.3, 0.4)).view(-1, 1, 1)
    torch.testing.assert_close(images, (raw[:SIZE] / 255 - mean) / std)
    assert images.stride(1) == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_crop_is_a_window_of_its_padded_image_mirrored_or_not(dtype: torch.dtype) -> None:
    images = torch.randint(1, 256, (64, 3, 5, 4)).to(dtype)
    one, zero = torch.ones(3), torch.zeros(3)
    result = normalise(images, one, zero, Augment(flip=True, pad=2), torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2))
    windows = set()
    for image, source in zip(result, padded, strict=True):
        windows.add(
            next(
                (y, x, mirrored)
                for y in range(5)
                for x in range(5)
                for mirrored in (False, True)
                if (image.flip(2) if mirrored else image).equal(source[:, y : y + 5, x : x + 4])
            )
        )
    assert len(windows) > 20
    assert {mirrored for *_, mirrored in windows} == {False, True}


def test_cutout_erases_at_most_a_quarter_of_the_chosen_share_of_images() -> None:
    images = torch.full((400, 1, 8, 8), 9, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    result = normalise(images, torch.ones(1), torch.zeros(1), Augment(flip=False, erase=0.5), generator)
    erased = (result == 0).flatten(1).sum(1)
    assert 150 < (erased > 0).sum() < 250
    assert erased.max() == 16


@pytest.mark.parametrize("augment", [None, Augment(flip=True, pad=2), Augment(flip=False, erase=0.5)])
def test_batches_made_together_are_those_of_every_loader(augment) -> None:
    def loaders() -> list[Batches]:
        made = [loader(seed=seed) for seed in range(3)]
        for one in made:
            one.augment = augment
        return made

    together = ReplicatedBatches(loaders())
    for epoch_number, begun in ((0, 0), (1, 2)):  # the second resumes
        state = {"epoch": epoch_number, "position": begun}
        together.load_state_dict(state)
        apart = loaders()
        for one in apart:
            one.load_state_dict(state)
        count = 0
        for (images, labels), *parts in zip(together, *apart, strict=True):
            assert images.equal(torch.cat([part for part, _ in parts], 1))
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert [one.tolist() for one in labels] == [part.tolist() for _, part in parts]
            count += 1
            assert together.state_dict() == apart[0].state_dict()
        assert count == len(together) - begun
