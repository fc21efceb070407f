"""Optimizers and learning rates: what a recipe says, as functions of the epoch and of PublicTest's history so far."""

import math

import torch
from torch import nn

from ferkit.models.outline import blocks
from ferkit.recipe import Recipe
from ferkit.tuning import rate


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer, fused into one kernel on CUDA where there is one; weight decay on matrices only.

    Parameters of one rate (tuning.rate) are a group, which keeps it as `rate`.
    """
    names, groups = blocks(model), {}
    for name, parameter in model.named_parameters():
        key = (rate(name, names, recipe.layer_decay), recipe.weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    groups = [{"params": some, "weight_decay": decay, "rate": factor} for (factor, decay), some in groups.items()]
    how = {"fused" if next(model.parameters()).device.type == "cuda" else "foreach": True}
    if recipe.optimizer in ("nesterov", "sgd"):
        nesterov = recipe.optimizer == "nesterov" and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, **how)
    if recipe.optimizer == "radam":  # as its authors' code decays weights
        return torch.optim.RAdam(groups, lr=recipe.lr, decoupled_weight_decay=True, foreach=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(groups, lr=recipe.lr, **how)


def learning_rate(recipe: Recipe, epoch: float, history: list[float]) -> float:
    """The rate at an epoch, counted from 0 with a fraction, after PublicTest accuracies of the epochs before it.

    A trunk that thaws begins a second phase: at its own rate, and with plateaus counted anew.
    """
    peak = recipe.lr
    if recipe.frozen and epoch >= recipe.frozen:
        peak, history = peak * recipe.thaw, history[recipe.frozen :]
    if recipe.schedule == "one_cycle":
        return _one_cycle(peak, epoch / recipe.epochs)
    if epoch < recipe.warmup:
        return peak * (epoch + 0.01) / (recipe.warmup + 0.01)
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "plateau":
        factor, patience = recipe.plateau
        return max(peak * factor ** _plateaus(history, int(patience)), min(1e-6, peak))
    since, length = epoch - recipe.warmup, max(recipe.epochs - recipe.warmup, 1e-9)
    if recipe.cycle:
        since, length = since % recipe.cycle, recipe.cycle
    return peak * (1 + math.cos(math.pi * since / length)) / 2


def cycles(recipe: Recipe, epochs: int) -> int:
    """How many of a cosine's cycles are behind after so many epochs."""
    return max(0, int((epochs - recipe.warmup) // recipe.cycle)) if recipe.cycle else 0


def _one_cycle(peak: float, progress: float) -> float:
    """Smith and Topin 2017 (arXiv 1708.07120), the numbers of torch's OneCycleLR: peak / 25 up to it over 30 % of
    training, then down to peak / 250,000, both along half a cosine; `warmup` has no part in it."""
    rising = progress < 0.3
    start, end = (peak / 25, peak) if rising else (peak, peak / 25e4)
    share = progress / 0.3 if rising else (progress - 0.3) / 0.7
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _plateaus(history: list[float], patience: int) -> int:
    """How often accuracy went more than `patience` epochs without a new best, counting anew each time."""
    best, stale, count = -1.0, 0, 0
    for accuracy in history:
        best, stale = (accuracy, 0) if accuracy > best else (best, stale + 1)
        if stale > patience:
            count, stale = count + 1, 0
    return count


def is_over(recipe: Recipe, history: list[float]) -> bool:
    """Whether training is done: every epoch, or `patience` of them without a better PublicTest accuracy.

    Before a frozen trunk has thawed it is not, and its epochs do not count as stale.
    """
    phase = history[recipe.frozen :]
    stale = len(phase) - 1 - phase.index(max(phase)) if phase else 0
    return len(history) >= recipe.epochs or (recipe.patience > 0 and stale >= recipe.patience)
