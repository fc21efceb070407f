"""What judges faces as a run folder does: its network, or the networks of an ensemble and how they are combined."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ferkit import DataError
from ferkit.ensemble import Combination
from ferkit.ensemble_run import EnsembleRecipe, digests, judges_by_members, member_paths
from ferkit.members import load_members, weights_file
from ferkit.precision import hasten
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

    def hastened(self, precision: str = "auto") -> "Judge":
        """The same judge with each of its models as precision.hasten gives it."""
        return replace(self, models=tuple(hasten(model, precision) for model in self.models))

    def __call__(self, images: Tensor, tta: str = "none") -> Tensor:
        """Logits (N, C) of uint8 (N, H, W) faces, as predict.logits."""
        if self.combination is None:
            return logits(self.models[0], images, tta=tta)
        seen = [images, images.flip(-1)] if self.views else [images]
        how = "none" if self.views else tta
        each = torch.stack([logits(model, view, tta=how) for view in seen for model in self.models])
        return torch.from_numpy(self.combination(each.double().numpy())).float()


def own_weights(place: str | Path) -> Path | None:
    """The weights of a run folder, or such a file itself; None for an ensemble that judges by its members' weights.

    Raises DataError for a run whose weights were not kept.
    """
    place = Path(place)
    if place.is_file():
        return place
    if (place / BEST).exists() or not (place / "record.json").exists():
        return place / BEST
    if not judges_by_members(read_record(place)):
        raise DataError(f"{place} has no {BEST}: its weights were not kept; train it again to predict")
    return None


def load_judge(folder: str | Path, device: str = "auto") -> Judge:
    """The judge of a run folder or of a file of weights, on the device; DataError where weights are not there."""
    folder, where = Path(folder), pick_device(device)
    if weights := own_weights(folder):
        model, _, classes = load_weights(weights)
        return Judge((model.to(where),), classes)
    record = read_record(folder)
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
