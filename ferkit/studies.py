"""The suite's studies: which recipes each compares, at one budget, against which baseline; and the page of them.

campaign.toml lists their runs. Everything here is computed from the records and logits below results/.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ferkit.comparison import compare, groups, table
from ferkit.markdown import markdown_table
from ferkit.recipes import get_recipe

TEACHER = "results/teachers/study.npz"
START = "+weights=compact-study+policy=standard"  # what fine-tuning begins with: FER2013, eight epochs
POLICIES = ("none", "flip", "shift", "erase", "mixup", "cutmix", "standard", "heavy")
MORE_POLICIES = ("rotate", "photometric", "vertical", "emonext", "vgg_fer", "residual_masking")

SCRATCH = "random weights"
TUNING = {  # ways to learn FER+ from a network that knows FER2013: changes of the recipe
    SCRATCH: {"lr": 0.1},
    "all": {"new_head": True},
    "all, rates fall by 0.7 a block": {"new_head": True, "layer_decay": 0.7},
    "head, then last stage, then all": {"new_head": True, "free": ((0, 1), (1, 4), (2, 8))},
    "last stage and head": {"new_head": True, "free": ((0, 4),)},
    "head only": {"new_head": True, "free": ((0, 1),)},
}


# Members of ensembles: a model, its kind of recipe, a seed and changes. Those on FER2013 were listed before they ran.
MEMBERS = (
    *(("compact", "house", seed, {}) for seed in range(4)),
    ("patt_lite", "cpu", 0, {}),
    *(("compact", "member", 0, {"policy": policy})
      for policy in ("light", "standard", "light+mixup=0.2", "light+erase=0.5")),
    ("compact", "member", 1, {"targets": "votes"}),
    ("compact", "member", 2, {"class_weights": True}),
    ("compact", "member", 3, {"options": {"width": 40, "depths": (1, 2, 2)}}),
    ("compact", "member", 4, {"schedule": "cosine", "lr": 0.1, "warmup": 0.0}),
)  # fmt: skip
MINI_MEMBERS = (
    *(("compact", "mini", seed, {}) for seed in range(2)),
    ("compact", "mini", 2, {"policy": "mixup"}),
    ("compact", "mini", 3, {"policy": "shift"}),
    ("compact", "mini", 4, {"options": {"width": 12}}),
    ("resnet18_fer", "mini", 5, {}),
)
CYCLES = {"schedule": "cosine", "lr": 0.1, "warmup": 0.0, "cycle": 6.0, "snapshots": True}  # of a member


@dataclass(frozen=True)
class Study:
    """One question: `names` maps what is compared to the names of recipes, the baseline among them."""

    title: str
    what: str  # heads the first column
    budget: str
    data: str  # folder below results/
    names: dict[str, str]
    baseline: str
    usages: tuple[str, ...] = ("PrivateTest",)


def _augmentation(model: str, budget: str, policies: tuple[str, ...] = POLICIES) -> Study:
    told = f"{model}, {budget}; every policy but `none` mirrors half of the faces"
    names = {policy: f"{model}-study+policy={policy}" for policy in policies}
    return Study(f"Augmentation of {model}", "policy", told, "fer2013", names, "flip")


def _distillation(what: str, changes: dict) -> Study:
    alone = get_recipe("compact", "study", policy="flip", **changes).name
    taught = get_recipe("compact", "study", policy="flip", **changes, teacher=TEACHER).name
    told = f"{what}, 8 epochs at 32 pixels; the teacher is three compacts (flip, mixup, shift), out of fold"
    names = {"labels": alone, "labels and a teacher": taught}
    return Study(f"Distillation into {what}", "learns from", told, "fer2013", names, "labels")


STUDIES = (
    _augmentation("compact", "8 epochs at 32 pixels", POLICIES + MORE_POLICIES),
    _augmentation("resnet18_fer", "30 epochs at 40 pixels"),
    _augmentation("resemotenet", "20 epochs at 64 pixels"),
    Study(
        "Vote distributions against majority labels", "trained towards",
        "compact, 8 epochs at 32 pixels, FER+; labels: the 25,060 faces with a majority, votes: 27,956 faces",
        "ferplus", {"majority labels": "compact-study", "vote distributions": "compact-study+targets=votes"},
        "majority labels", ("PrivateTest", "PrivateTest argmax"),
    ),
    Study(
        "FER2013 to FER+", "start and what learns",
        "compact, 4 epochs at 32 pixels on FER+; all but `random weights` after 8 epochs on FER2013, with a new head",
        "ferplus",
        {
            how: get_recipe("compact", "tune", **changes).name + ("" if how == SCRATCH else START)
            for how, changes in TUNING.items()
        },
        SCRATCH, ("PrivateTest", "PrivateTest argmax"),
    ),
    Study(
        "Four more epochs on FER2013", "how", "compact, 4 epochs after 8 on FER2013 at 32 pixels, or on FER+",
        "fer2013",
        {
            "at 32 pixels": f"compact-tune{START}",
            "at 48 pixels": f"compact-tune+options=size_48+stages=4_48{START}",
            "from FER+, with a new head": "compact-tune+new_head=True+weights=compact-study",
        },
        "at 32 pixels",
    ),
    Study(
        "Another protocol: PublicTest is trained on too", "trained on",
        "compact, 4 epochs after 8 on FER2013 at 32 pixels; trained on both it reports its last epoch, here only",
        "fer2013",
        {"Training": f"compact-tune{START}", "Training and PublicTest": f"compact-tune+protocol=with_public{START}"},
        "Training",
    ),
    _distillation("compact", {}),
    _distillation("compact of width 8", {"options": {"width": 8}}),
    Study(
        "The best recipe of the search", "recipe", "compact, 5 epochs at 32 pixels", "fer2013",
        {"as it was": "compact-study+stages=5_32", "best of study `cpu`": "compact-study+stages=5_32+study=cpu"},
        "as it was",
    ),
)  # fmt: skip


def page(root: Path) -> str:
    """Every study that has a run beside its baseline's, as Markdown."""
    parts = [
        "# Studies",
        "Written by `make tables` from the records beside this page. Accuracies in percent, rows in the order of\n"
        "PublicTest, which is what one may choose by. A difference is to the baseline's mean, in points, with a 95 %\n"
        "interval of a bootstrap over images and seeds; p is two-sided and adjusted for the number of rows (Holm).",
    ]
    for study in STUDIES:
        runs = groups(root / study.data, study.names)
        if study.baseline in runs and len(runs) > 1:
            parts += [f"## {study.title}", f"{study.budget[0].upper()}{study.budget[1:]}."]
            parts += [table(compare(runs, study.baseline, usage), study.what, usage) for usage in study.usages]
    for file in sorted((root / "studies").glob("*.json")):
        parts += _search(json.loads(file.read_text()))
    return "\n\n".join(parts) + "\n"


def _search(report: dict) -> list[str]:
    """A study of hyper-parameters: its best trials."""
    best = sorted(report["trials"], key=lambda trial: -max(trial["public_accuracy"], default=0))[:5]
    names = list(best[0]["values"])
    n_pruned = sum(trial["state"] == "pruned" for trial in report["trials"])
    lines = []
    for trial in best:
        values = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in trial["values"].values()]
        cells = [str(trial["number"]), f"{100 * max(trial['public_accuracy']):.1f}", str(len(trial["public_accuracy"]))]
        lines.append([*cells, *values])
    told = ", ".join(f"{name} {share:.2f}" for name, share in report["importance"].items())
    return [
        f"## Hyper-parameters: study `{report['study']}`",
        f"{len(report['trials'])} trials of {report['base']['model']}, {n_pruned} of them stopped early; the best five "
        f"on PublicTest, which chose them: no results. Share of the variance that each explains (fANOVA): {told}.",
        markdown_table(("trial", f"PublicTest, n {report['n']['PublicTest']:,}", "epochs", *names), lines),
    ]
