"""The validation split: fixed, and with the class proportions of the training set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mnet.errors import ConfigError

_SPLIT_SEED = 20171021  # the same in every study, independent of a run's seed


def check_val_size(val_size: int, train_size: int) -> None:
    """
    Raises:
        ConfigError: Validation would leave no training images.
    """
    if val_size >= train_size:
        raise ConfigError(f"val_size is {val_size}, train has {train_size} images; at most {train_size - 1}.")


def stratified_split(labels: Tensor, val_size: int) -> tuple[Tensor, Tensor]:
    """Indices (train, validation), each in ascending order and with the class proportions of `labels`.

    A pure function of labels and size. Quotas are rounded by largest remainder, so they add up to `val_size`.

    Args:
        labels: (N,) int64.
        val_size: number of validation images.

    Raises:
        ConfigError: val_size is not below the number of labels.
    """
    check_val_size(val_size, len(labels))
    values = labels.numpy()
    classes, counts = np.unique(values, return_counts=True)
    exact = counts * (val_size / len(values))
    quotas = np.floor(exact).astype(int)
    largest_remainders = np.argsort(quotas - exact, kind="stable")[: val_size - quotas.sum()]
    quotas[largest_remainders] += 1
    generator = np.random.default_rng(_SPLIT_SEED)
    held_out = np.zeros(len(values), dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        held_out[generator.permutation(np.flatnonzero(values == label))[:quota]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))
