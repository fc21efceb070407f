"""The weights that come with the package, from a finished run, with their model card."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open

from ferkit import DataError
from ferkit.atomic import project_root, write_whole
from ferkit.audit import audit_file, load_audit
from ferkit.faces import Faces
from ferkit.independence import dependence
from ferkit.leaderboard import is_result
from ferkit.model_card import card
from ferkit.models.pretrained import load_exactly
from ferkit.predict import logits
from ferkit.records import check_faces, is_of, measure_parts, read_record
from ferkit.weights import BEST, SHIPPED, load_weights, write_weights

TOLERANCE = 0.02  # largest difference of a logit on PublicTest between float32 and what is shipped
LARGEST = 5_000_000  # bytes


def ship(folder: str | Path, faces: Faces, place: Path = SHIPPED) -> float:
    """Write a finished run's weights to where the package keeps them, matrices in float16; the difference it makes.

    That is the largest of a logit on PublicTest. Call it with the run folder that holds best.safetensors and
    record.json, once the record is committed below results/; then `make tables` writes the card.
    Raises ValueError for a run that is no result, and DataError for other faces than it was measured on, for weights
    that are not the record's, for a difference above TOLERANCE and a file above LARGEST.
    """
    folder, record = Path(folder), read_record(folder)
    if not is_result(record) or dependence(record):
        raise ValueError(f"{folder}: no result (a study, a quick run, other data, another protocol); it is not shipped")
    check_faces(folder, record, faces)
    model, recipe, classes = load_weights(folder / BEST)
    if not is_of(record, recipe):
        raise DataError(f"{folder}: {BEST} is of another recipe than its record")
    weights = {k: v.half() if v.ndim > 1 else v for k, v in model.state_dict().items()}  # norms and biases are few
    halved = copy.deepcopy(model)
    load_exactly(halved.state_dict(), weights, BEST)
    images = faces.split("PublicTest").images
    difference = (logits(halved, images) - logits(model, images)).abs().max().item()
    if not difference <= TOLERANCE:
        raise DataError(f"{folder}: in float16 a logit moves by {difference:.3f}, more than {TOLERANCE}")
    if (size := sum(v.numel() * v.element_size() for v in weights.values())) > LARGEST:
        raise DataError(f"{folder}: {size / 1e6:.1f} MB of weights; at most {LARGEST / 1e6:.0f} MB are shipped")
    about = {"recipe": json.dumps(asdict(recipe)), "classes": json.dumps(classes), "data": faces.fingerprint,
             "record": f"results/{record['data']['name']}/{folder.name}/record.json"}  # fmt: skip
    write_weights(place, weights, about)
    return difference


def shipped_run(place: Path = SHIPPED) -> str:
    """The record of the run that shipped weights are of, by its path in a checkout."""
    with safe_open(place, "pt") as file:
        return file.metadata()["record"]


def shipped_card(place: Path = SHIPPED) -> str:
    """The card of shipped weights, from the record that they name; DataError where that is not in this checkout."""
    named, root = shipped_run(place), project_root()
    record = read_record(folder := (root / named).parent)
    audit = root / audit_file(record["data"]["name"])
    found = root / "results" / "benchmarks" / "detecting.json"
    detecting = json.loads(found.read_text()) if found.exists() else None
    return card(record, named, measure_parts(folder, load_audit(audit)) if audit.exists() else {}, detecting)


def write_card(place: Path = SHIPPED) -> None:
    """Put the card beside shipped weights."""
    write_whole(place.with_suffix(".md"), shipped_card(place))
