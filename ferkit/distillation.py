"""What an ensemble says of the training faces, for a network to learn from: each face by members that never saw it.

A network's logits on what it has learned from are its memory of the labels; out of fold they are its judgement, up to
the near copies that FER2013 has across folds.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ferkit import DataError
from ferkit.faces import Faces
from ferkit.predict import logits, pick_device
from ferkit.recipe import Recipe
from ferkit.records import check_faces, outside, read_record, save_arrays
from ferkit.weights import BEST, load_weights


def teach(folders: list[Path], faces: Faces, path: Path, device: str = "auto") -> float:
    """Write a teacher's file (losses.teacher_logits): the log of the mean probabilities that runs give the training
    faces of the fold which each left out (Recipe.fold); its accuracy on them.

    Every recipe must be there with all of its folds, trained from random weights to its end. Raises DataError for a
    file that exists, a run that cannot be read, is of other data or may have seen its fold; ValueError for runs without
    folds, folds without runs, and a run named twice.
    """
    training, where = faces.split("Training"), pick_device(device)
    total, count = torch.zeros(len(training), len(faces.classes), dtype=torch.float64), torch.zeros(len(training))
    found = defaultdict(set)
    if path.exists():
        raise DataError(f"{path} exists, and students name it; write another file")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named more than once; a teacher counts each once")
    for folder in folders:
        model, recipe, classes = load_weights(Path(folder) / BEST)
        if classes != faces.classes:
            raise DataError(f"{folder} tells {', '.join(classes)} apart; {faces.name} has {', '.join(faces.classes)}")
        if not recipe.fold:
            raise ValueError(f"{folder} has learned from every training face; a teacher is made of runs with a fold")
        _check(folder, recipe, read_record(folder), faces)
        unseen = training.rows % recipe.fold[1] == recipe.fold[0]
        total[unseen] += logits(model.to(where), training.images[unseen]).double().softmax(1)
        count[unseen] += 1
        found[str(replace(recipe, name="", fold=())), recipe.fold[1]].add(recipe.fold[0])
    lacking = [f"{n} folds, of which {sorted(set(range(n)) - folds)} are missing" for (_, n), folds in found.items()
               if len(folds) < n]  # fmt: skip
    if lacking or not found:
        raise ValueError(f"a teacher needs every fold of its recipes: {'; '.join(lacking) or 'no run was named'}")
    mean = (total / count[:, None]).clamp_min(1e-6).log().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, names = training.rows.numpy().astype(np.int32), np.array(faces.classes)
    save_arrays(path, {"Training_logits": mean.astype(np.float16), "Training_rows": rows, "classes": names,
                       "runs": np.array([Path(folder).name for folder in folders])})  # fmt: skip
    return float((mean.argmax(1) == training.labels.numpy()).mean())


def _check(folder: Path, recipe: Recipe, record: dict, faces: Faces) -> None:
    """DataError for a run that may have seen its own fold, or learned from more than labels."""
    check_faces(folder, record, faces)
    if recipe.protocol != "standard" or record["start"] or outside(record):
        raise DataError(f"{folder} began with weights, or learned from more than the labels of Training; leave it out")
