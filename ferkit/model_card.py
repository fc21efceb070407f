"""The model card of shipped weights, in Markdown, from the record of the run that they come from."""

import numpy as np
from scipy.stats import binomtest

from ferkit.markdown import markdown_table
from ferkit.records import interval, outside

ABOUT = """\
Read by `ferkit predict` when no other model is named. It takes a grey picture of one face, cropped as FER2013 crops
(the face fills it), at 48x48 pixels, and gives a share for each class. The file holds the recipe, the classes in their
order, the fingerprint of the data and the path of the record that this page is written from.

The numbers below are of float32. The file has float16 matrices, which move no logit on PublicTest by more than 0.02;
`ferkit predict` judges many pictures in bfloat16 where that is faster, which can move a share by a few hundredths and,
of near ties, change the first answer (`--precision float32` does not).
"""
USE = """\
## Intended use

Teaching, research and comparison on pictures like FER2013's; a baseline that is small, fast and measured. What it gives
is which of seven words the raters of FER2013 would probably choose for a picture. Aggregate with care, and report the
intervals above.

## What it cannot know, and misuse

- A face does not tell what a person feels: people scowl when they think, and smile when they are afraid. The labels are
  what raters said of pictures that a web search for emotion words had found; nobody was asked how they felt.
- The data do not say who the people are. How well it does for one age, gender, skin colour or culture and not for
  another is unmeasured; assume that it differs.
- Do not use it to decide about a person (hiring, grading, policing, border control, insurance, credit, health), nor to
  tell whether someone lies. Do not use it on people who have not been told.
- In the European Union, Regulation (EU) 2024/1689 (the AI Act) prohibits AI systems that infer emotions of people at
  the workplace and in education, except for medical or safety reasons (Article 5(1)(f)); it lists other emotion
  recognition as high-risk (Annex III, point 1(c)); and those who deploy it must inform the people who are exposed to it
  (Article 50(3)). This is no legal advice, and other laws, such as those on biometric data, come on top.
"""


def card(record: dict, named: str, parts: dict[str, dict], detecting: dict | None = None) -> str:
    """A model card in Markdown: data, protocol, accuracy with intervals and by class, failures, use and misuse.

    named: the record's path. parts: metrics of PrivateTest's parts, as records.measure_parts gives them. detecting:
    what benchmarks/detecting.py wrote.
    """
    recipe, data = record["recipe"], record["data"]
    epochs, seed = sum(n for n, _ in recipe["stages"]), recipe["seed"]
    learned = ", ".join(outside(record)) or "none"
    pictures = ", ".join(f"{n:,} of {split}" for split, n in data["n"].items())
    left_out = "; its audit's copies and contradictions left out of training" if record.get("exclude") else ""
    return "\n".join([
        f"# Model card: {recipe['name']}, the weights in the package", "", ABOUT,
        "## Data and protocol", "",
        f"- Data: {data['name']}, fingerprint {data['fingerprint']}{left_out}.",
        f"- Pictures: {pictures}.",
        f"- Outside data: {learned}.",
        "- FER2013's pictures came from a web search and were cropped by a face detector. Its labels are noisy: people",
        "  agree with them in 65 %, give or take 5 (Goodfellow et al. 2013).",
        f"- Protocol: trained on Training for {epochs} epochs, seed {seed}; the epoch chosen on PublicTest;",
        f"  PrivateTest read once. Network: {recipe['model']}, {record['parameters']:,} parameters.",
        f"- Record: `{named}`.", "",
        "## Accuracy", "",
        "Percent, with 95 % intervals by a bootstrap over the pictures.", "",
        _accuracy_table(record["metrics"] | parts), "",
        "## By class, on PrivateTest", "",
        "Of a class, the percentage that is recognised (95 % by Wilson), and what the others are called.", "",
        _class_table(record), "",
        "## Known failures", "",
        *_failures(record, parts, _detecting(detecting, named)), "",
        USE,
    ])  # fmt: skip


def _accuracy_table(metrics: dict[str, dict]) -> str:
    names = {
        "PrivateTest": "PrivateTest",
        "PrivateTest clean": "of these without a copy in Training",
        "PrivateTest flip TTA": "PrivateTest, mean of a face and its mirror image",
        "PublicTest": "PublicTest",
    }
    lines = []
    for key, name in names.items():
        if found := metrics.get(key):
            cells = (interval(found[headline]) for headline in ("accuracy", "balanced_accuracy", "macro_f1", "ece"))
            lines.append([name, f"{found['n']:,}", *cells])
    return markdown_table(("pictures", "n", "accuracy", "balanced accuracy", "macro F1", "ECE"), lines)


def _class_table(record: dict) -> str:
    found = record["metrics"]["PrivateTest"]
    names, lines = list(found["per_class"]), []
    for i, (name, scores) in enumerate(found["per_class"].items()):
        row = np.array(found["confusion"][i])
        n, right = int(row.sum()), int(row[i])
        wilson = binomtest(right, n).proportion_ci(method="wilson")
        others = [j for j in np.argsort(-row, kind="stable") if j != i and row[j] / n >= 0.05]
        instead = ", ".join(f"{names[j]} {row[j] / n:.0%}" for j in others)
        share = interval({"value": right / n, "low": wilson.low, "high": wilson.high})
        scored = [f"{100 * scores[key]:.1f}" for key in ("precision", "f1")]
        lines.append([name, f"{n:,}", share, *scored, instead or "–"])
    return markdown_table(("class", "n", "recognised", "precision", "F1", "called instead"), lines)


def _failures(record: dict, parts: dict[str, dict], detecting: list[str]) -> list[str]:
    found = record["metrics"]["PrivateTest"]
    recall = {name: scores["recall"] for name, scores in found["per_class"].items()}
    weak = sorted(recall, key=recall.get)[:2]
    rare = min(found["per_class"], key=lambda name: found["per_class"][name]["n"])
    lines = [
        f"- {' and '.join(f'{name} ({recall[name]:.0%} recognised)' for name in weak)} are its weakest classes.",
        f"- {rare} has {found['per_class'][rare]['n']} pictures in PrivateTest: its numbers are wide guesses.",
    ]
    ece = found["ece"]
    lines.append(f"- Its confidence is off by {interval(ece)} points on average (ECE): shares are no probabilities.")
    if clean := parts.get("PrivateTest clean"):
        lost = 100 * (found["accuracy"]["value"] - clean["accuracy"]["value"])
        lines.append(f"- Part of PrivateTest has copies in Training; without them accuracy is {lost:.1f} points lower.")
    return [
        *lines,
        "- `ferkit predict` looks for frontal faces of at least 32 pixels, and sometimes finds one where none is.",
        *detecting,
        "- It has no class for what it does not know: of a drawing, a mask, an animal, or something that is no face,",
        "  it names an emotion all the same.",
    ]


def _detecting(found: dict | None, named: str) -> list[str]:
    """What the detector finds of FER2013's faces, and what its crops cost the weights that were measured with it."""
    if not found:
        return []

    def told(share: dict) -> str:
        return f"{share['value']:.1f} % ({share['low']:.1f}–{share['high']:.1f})"

    by_class, right = found["found by class, %"], found["accuracy on the faces found, %"]
    least, most = (chosen(by_class, key=lambda name: by_class[name]["value"]) for chosen in (min, max))
    lines = [f"- Of PublicTest's {found['n']:,} faces its detector finds {told(found['found, %'])}, of {least} "
             f"{by_class[least]['value']:.0f} %,", f"  of {most} {by_class[most]['value']:.0f} %."]  # fmt: skip
    if found["weights"] == named:
        lines[-1] += f" Of those that it finds, {told(right['cut out'])} are read rightly from its own crops,"
        lines.append(f"  {told(right['given'])} from FER2013's.")
    return lines
