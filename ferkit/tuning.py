"""Which blocks of a network learn, and how fast: frozen trunks, gradual unfreezing, rates that fall from head to input.

A network's blocks (models.outline.blocks) are counted from its head; what belongs to none counts to the first.
"""

from torch import nn

from ferkit.models.outline import block_of, blocks
from ferkit.models.pretrained import trunk_of
from ferkit.recipe import Recipe


def rate(name: str, names: list[str], decay: float) -> float:
    """The factor on a parameter's learning rate: `decay` for each block between its own and the head.

    Layer-wise decay as in Clark et al. 2020 (arXiv 2003.10555) and Bao et al. 2021 (arXiv 2106.08254).
    """
    return decay ** (len(names) - 1 - (block_of(name, names) or 0))


def changes_at(recipe: Recipe, epoch: int) -> bool:
    """Whether other blocks learn from that epoch, counted from 0, than before it."""
    return (recipe.frozen > 0 and epoch == recipe.frozen) or any(first == epoch for first, _ in recipe.free)


def fix(model: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Training mode, and what does not learn in that epoch fixed, its batch norms' statistics included."""
    model.train()
    if not (recipe.frozen or recipe.free):
        return
    names = blocks(model)
    n_free = [n for first, n in sorted(recipe.free) if first <= epoch][-1:] or [len(names)]
    first_free = len(names) - n_free[0]
    trunk = trunk_of(model, recipe.model) if epoch < recipe.frozen else None

    def fixed(name: str, block: int) -> bool:
        return block < first_free or (trunk is not None and trunk.covers(f"{name}."))

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not fixed(name, block_of(name, names) or 0))
    for name, module in model.named_modules():  # parents first: what they say of their children is overwritten
        block = block_of(name, names)
        module.train(not fixed(name, len(names) if block is None else block))
