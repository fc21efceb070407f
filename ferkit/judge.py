"""What judges faces as a run folder does: its network, or the networks of an ensemble and how they are combined."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ferkit import DataError
from ferkit.ensemble import Combination
from ferkit.ensemble_run import EnsembleRecipe, digests, judges_by_members, member_paths
from ferkit.members import load_members, weights_file
from ferkit.predict import logits, pick_device
from ferkit.records import read_record
from ferkit.weights import BEST, load_weights


@dataclass(frozen=True)
class Judge:
    """What a run folder does with faces: one model, or the members of an ensemble with their combination."""

    models: tuple[nn.Module, ...]
    classes: tuple[str, ...]
    combination: Combination | None = None
    views: bool = False

    @property
    def weights(self) -> np.ndarray:
        """The share of each model (M,)."""
        if self.combination is None:
            return np.ones(1)
        return self.combination.weights.reshape(1 + self.views, -1).sum(0)

    def __call__(self, images: Tensor, tta: str = "none") -> Tensor:
        """Logits (N, C) of uint8 (N, H, W) faces, as predict.logits."""
        if self.combination is None:
            return logits(self.models[0], images, tta=tta)
        seen = [images, images.flip(-1)] if self.views else [images]
        how = "none" if self.views else tta
        each = torch.stack([logits(model, view, tta=how) for view in seen for model in self.models])
        return torch.from_numpy(self.combination(each.double().numpy())).float()


def load_judge(folder: str | Path, device: str = "auto") -> Judge:
    """The judge of a run folder, its weights on the device; DataError where an ensemble's members lack theirs."""
    folder, where = Path(folder), pick_device(device)
    if (folder / BEST).exists() or not (folder / "record.json").exists():
        model, _, classes = load_weights(folder / BEST)
        return Judge((model.to(where),), classes)
    record = read_record(folder)
    if not judges_by_members(record):
        raise DataError(f"{folder} has no {BEST}: its weights were not kept; train it again to predict")
    paths = member_paths(folder, record)
    files = [weights_file(path) for path in paths]
    if missing := [str(file) for file in files if not file.exists()]:
        raise DataError(f"{folder} judges by the weights of its members; not there: {', '.join(missing)}")
    recipe = EnsembleRecipe(**record["recipe"])
    members = load_members(paths, recipe.views)
    if digests(members, recipe) != record["members"]:
        raise DataError(f"{folder}: its members have changed since it was fitted; make it again in another folder")
    models = tuple(load_weights(file)[0].to(where) for file in files)
    return Judge(models, members.classes, members.fit(recipe.method, recipe.tempered, recipe.seed), recipe.views)
