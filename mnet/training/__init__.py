"""Training: recipes, TensorFlow's RMSprop, averaged weights, compilation and precision."""

from mnet.training.optim import RMSpropTF
from mnet.training.recipes import RECIPES, Recipe, bn_momentum_for, lr_factor, recipe

__all__ = ["RECIPES", "RMSpropTF", "Recipe", "bn_momentum_for", "lr_factor", "recipe"]
