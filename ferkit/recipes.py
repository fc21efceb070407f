"""The recipes that have a name: of the kinds below, those that `ferkit models` lists for a model.

paper: as published, with the deviations named here. house: our own, on a GPU (compact on a CPU), under one protocol.
cpu: what two cores can do with FER2013, at a stated budget. member: a sixth of house's budget, for ensembles; no
result. study: shorter and smaller, for comparing choices with each other at one budget; no result. tune: a few epochs
from the weights of a study's run; no result. quick: an installation check on the drawn faces, narrow and small; no
result. mini: seconds, where a notebook's quick profile compares many runs.
"""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

from ferkit.atomic import project_root
from ferkit.recipe import Recipe
from ferkit.weights import BEST

KINDS = ("house", "paper", "cpu", "member", "study", "tune", "quick", "mini")
NO_RESULT = ("member", "study", "tune", "quick", "mini")
PROFILE_KINDS = {"quick": "quick", "cpu": "cpu", "full": "house"}  # what a profile trains of each model
PROFILE_STUDIES = {"quick": "mini", "cpu": "study", "full": "study"}  # and where many runs are compared


# Deviations of every paper recipe: weight decay spares norms and biases; whole faces where the papers crop (their crops
# became shifts and scales); PublicTest decides plateaus, stops and the reported epoch; batches are of equal size, with
# no ragged last one; bfloat16 where it is faster.
PAPER = {
    # The code: no schedule (the paper says a plateau), at most 80 epochs.
    "resemotenet": dict(
        optimizer="sgd", lr=1e-3, weight_decay=1e-4, batch_size=16, stages=((80, 64),), policy="flip",
        schedule="constant", patience=15,
    ),
    # Two phases in one run: the trunk fixed, then free at a hundredth of the rate. Shorter: 100 + 100 epochs, not
    # 100 + 500; one dropout rate; a plateau and balanced class weights in both phases (Keras' patience of 3 is a 2
    # here); no resize to 120 pixels in between.
    "patt_lite": dict(
        optimizer="adam", lr=1e-3, weight_decay=0.0, batch_size=8, stages=((200, 224),), policy="patt_lite", clip=3.0,
        class_weights=True, schedule="plateau", plateau=(0.1, 2), pretrained=True, frozen=100, thaw=0.01, patience=40,
    ),
    "residual_masking": dict(
        optimizer="radam", lr=1e-4, weight_decay=1e-3, batch_size=48, stages=((50, 224),), policy="residual_masking",
        schedule="plateau", plateau=(0.1, 2), pretrained=True, patience=8,
    ),
    # The average of weights every step, not every 16th: 0.99 ** (1 / 16). The length of a cycle is our choice.
    "emonext_tiny": dict(
        optimizer="adamw", lr=1e-3, weight_decay=0.01, batch_size=64, stages=((300, 224),), policy="emonext",
        cycle=3.0, label_smoothing=0.2, ema=0.99937, pretrained=True,
    ),
    # One view a face and step, where the paper takes ten crops.
    "vgg_fer": dict(
        lr=0.01, weight_decay=1e-4, batch_size=64, stages=((300, 40),), policy="vgg_fer", schedule="plateau",
        plateau=(0.75, 5),
    ),
    # One view a face, where the code takes five crops; it has a cosine and 300 epochs.
    "resnet18_fer": dict(lr=0.1, weight_decay=1e-4, stages=((300, 40),), policy="resnet18_fer", label_smoothing=0.1),
}  # fmt: skip

# Not measured yet, compact apart: our protocol at each network's own size, ImageNet trunks where the paper has them.
HOUSE = {
    "compact": dict(stages=((20, 40), (36, 48))),  # for two CPU cores: a smaller size first buys epochs
    "resemotenet": dict(lr=0.02, stages=((60, 64),)),
    "vgg_fer": dict(lr=0.05, stages=((100, 40),)),
    "resnet18_fer": dict(stages=((100, 40),)),
    "patt_lite": dict(optimizer="adamw", lr=1e-3, weight_decay=0.05, stages=((40, 224),), pretrained=True),
    "residual_masking": dict(lr=0.02, batch_size=64, stages=((40, 224),), pretrained=True),
    "resnet34": dict(lr=0.02, stages=((40, 224),), pretrained=True),
    "emonext_tiny": dict(
        optimizer="adamw", lr=2e-4, weight_decay=0.05, batch_size=64, stages=((30, 224),), pretrained=True
    ),
}
CPU = {
    "resemotenet": dict(options={"size": 32}, lr=0.04, batch_size=256, stages=((8, 32),), warmup=1.0),
    "vgg_fer": dict(lr=0.05, stages=((12, 40),)),
    "resnet18_fer": dict(options={"width": 32}, stages=((12, 40),)),
    "patt_lite": dict(
        options={"size": 64, "patch": 1}, optimizer="adamw", lr=2e-3, weight_decay=0.05, stages=((20, 64),)
    ),
    "residual_masking": dict(options={"width": 16, "size": 64}, lr=0.05, stages=((12, 64),)),
    "resnet34": dict(options={"size": 64}, lr=0.05, stages=((12, 64),)),
    "emonext_tiny": dict(
        options={"size": 64}, optimizer="adamw", lr=4e-4, weight_decay=0.05, batch_size=64, stages=((12, 64),)
    ),
}
MEMBER = {  # rate, schedule and decay by the search of results/studies.md
    "compact": dict(options={"size": 40}, policy="light", lr=0.3, schedule="one_cycle", weight_decay=7.5e-4,
                    stages=((12, 32), (6, 40))),
}  # fmt: skip
STUDY = {
    "compact": dict(options={"size": 32}, stages=((8, 32),)),
    "resnet18_fer": dict(stages=((30, 40),)),
    "resemotenet": dict(lr=0.02, stages=((20, 64),)),
}
TUNE = {"compact": dict(options={"size": 32}, lr=0.02, warmup=0.5, stages=((4, 32),))}
_ADAM = dict(optimizer="adamw", lr=2e-3, weight_decay=0.05)
QUICK = {
    "compact": dict(options={"width": 16}, stages=((30, 48),)),
    "resemotenet": dict(options={"width": 8, "size": 48}, stages=((20, 48),)) | _ADAM | dict(lr=1e-3),
    "vgg_fer": dict(options={"width": 16}, stages=((12, 40),)) | _ADAM | dict(lr=1e-3),
    "resnet18_fer": dict(options={"width": 16}, stages=((8, 40),)),
    "patt_lite": dict(options={"width": 16, "size": 64, "patch": 1}, stages=((14, 64),)) | _ADAM | dict(lr=0.01),
    "residual_masking": dict(options={"width": 16, "size": 64}, stages=((8, 64),)),
    "resnet34": dict(options={"width": 16, "size": 64}, stages=((12, 64),)),
    "emonext_tiny": dict(options={"width": 16, "depths": (1, 1, 3, 1), "size": 64}, stages=((16, 64),))
    | _ADAM
    | dict(lr=1e-3),
}
MINI = {
    "compact": dict(options={"width": 8, "size": 24}, stages=((10, 24),), batch_size=64),
    "resnet18_fer": dict(options={"width": 16, "size": 24}, stages=((4, 24),), batch_size=64),
    "residual_masking": dict(options={"width": 16, "size": 64}, stages=((1, 64),)),
}
PAPER["patt_lite_batch"] = PAPER["patt_lite"]
for table, stage in ((HOUSE, (8, 224)), (CPU, (4, 64)), (QUICK, (6, 64))):  # the same tensors: goes on from its weights
    rate = table["patt_lite"]["lr"] / 5
    table["patt_lite_batch"] = table["patt_lite"] | dict(lr=rate, stages=(stage,), pretrained=False)
for size in ("small", "base", "large", "xlarge"):
    for table in (PAPER, HOUSE):
        table[f"emonext_{size}"] = table["emonext_tiny"]

_PLAIN = {"warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0}  # what a paper does not have unless it says so
_QUICK = {"policy": "light", "batch_size": 32, "ema": 0.98}
RECIPES = {
    (model, kind): Recipe(model if kind == "house" else f"{model}-{kind}", model, **(common | changes))
    for kind, table, common in (
        ("house", HOUSE, {}),
        ("paper", PAPER, _PLAIN),
        ("cpu", CPU, {}),
        ("member", MEMBER, {}),
        ("study", STUDY, {}),
        ("tune", TUNE, {}),
        ("quick", QUICK, _QUICK),
        ("mini", MINI, _QUICK | {"policy": "flip", "precision": "float32"}),
    )
    for model, changes in table.items()
}
RECIPES["compact", "cpu"] = RECIPES["compact", "house"]


def kinds(model: str) -> list[str]:
    """The kinds of recipe that a model has."""
    if model.startswith("timm:"):
        return ["house", "cpu", "quick"]
    return [kind for kind in KINDS if (model, kind) in RECIPES]


def get_recipe(model: str, kind: str = "house", seed: int = 0, **changes) -> Recipe:
    """A model's recipe of that kind, or the best one of "study:<name>", its fields changed; `options` adds to its own.

    What is changed becomes part of its name, so that its run has a folder of its own. Raises ValueError for a recipe
    or a field that does not exist, and for a value of another type.
    """
    if kind.startswith("study:"):
        recipe = _studied(model, kind.removeprefix("study:"))
    else:
        recipe = _timm(model, kind) if model.startswith("timm:") else RECIPES.get((model, kind))
    if recipe is None:
        models = sorted({name for name, _ in RECIPES})
        there = f"it has {kinds(model)}" if kinds(model) else f"choose a model from {models} or timm:<name>"
        raise ValueError(f"there is no {kind} recipe of {model!r}; {there}")
    types = {f.name: type(getattr(recipe, f.name)) for f in fields(Recipe) if f.name not in ("name", "model", "seed")}
    for key, value in changes.items():
        if key not in types:
            raise ValueError(f"a recipe has no field {key!r}; choose from {sorted(types)}")
        known = (int, float) if types[key] is float else types[key]
        if not isinstance(value, known) or (isinstance(value, bool) and types[key] is not bool):
            raise ValueError(f"{key} wants a value like {getattr(recipe, key)!r}, got {value!r}")
    name = "+".join([recipe.name, *(f"{key}={_plain(value)}" for key, value in changes.items())])
    if "options" in changes:
        changes["options"] = recipe.options | changes["options"]
    return replace(recipe, name=name, seed=seed, **changes)


def started_from(recipe: Recipe, weights: Path) -> Recipe:
    """The recipe named by where it starts; of one that asks for ImageNet's weights, those are a file, and no name."""
    if recipe.pretrained:
        return recipe
    return replace(recipe, name=f"{recipe.name}+weights={start_name(weights, recipe.seed)}")


def start_name(weights: Path, seed: int) -> str:
    """Where a run of that seed starts: a file, or a run, whose seed is left out where it is the same."""
    start = weights.parent.name if weights.name == BEST else weights.stem
    return start.removesuffix(f"-s{seed}")


def _studied(model: str, study: str) -> Recipe:
    """The best recipe of a study of hyper-parameters (search.py), kept in results/ or still in runs/."""
    root = project_root()
    committed = root / "results" / "studies" / f"{study}.json"
    found = [committed] if committed.exists() else sorted(root.glob(f"runs/studies/*/{study}/study.json"))
    if not found:
        raise ValueError(f"there is no study {study!r}; run one with: ferkit search {study} --trials 25")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(map(str, found))} are studies of one name; rename or move one of the folders")
    (file,) = found
    recipe = Recipe(**json.loads(file.read_text())["best"])
    if recipe.model != model:
        raise ValueError(f"{file} is a study of {recipe.model}, not of {model}")
    return recipe


def _plain(value) -> str:
    """A value in letters that a folder's name may have."""
    return re.sub(r"[^\w.=]+", "_", str(value)).strip("_")


def _timm(model: str, kind: str) -> Recipe | None:
    """For any network of timm: ImageNet weights and its usual 224 pixels, or a small size from scratch."""
    small = {"size": 70 if "patch14" in model else 64}
    changes = {
        "house": dict(lr=0.02, batch_size=64, options={"size": 224}, stages=((40, 224),), pretrained=True),
        "cpu": dict(lr=0.05, options=small, stages=((12, small["size"]),)),
        "quick": dict(lr=0.05, options=small, stages=((8, small["size"]),), **_QUICK),
    }.get(kind)
    name = model.replace(":", "-") + ("" if kind == "house" else f"-{kind}")
    return Recipe(name, model, **changes) if changes else None
