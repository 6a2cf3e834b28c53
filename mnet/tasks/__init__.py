"""LightningModules: a network, a recipe, and what is measured of it."""

from mnet.tasks.classification import ImageClassifier

__all__ = ["ImageClassifier"]
