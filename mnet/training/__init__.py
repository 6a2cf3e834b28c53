"""Recipes, TensorFlow's RMSprop, and the average of the weights."""

from mnet.training.optim import RMSpropTF
from mnet.training.recipes import RECIPES, Recipe, bn_momentum_for, lr_factor, recipe

__all__ = ["RECIPES", "RMSpropTF", "Recipe", "bn_momentum_for", "lr_factor", "recipe"]
