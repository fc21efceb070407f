"""README, records and files agree with each other."""

import json
import re
import subprocess

import numpy as np
import pytest

from ferkit import atomic, campaign, ensemble_run, ensemble_study, leaderboard, leaks, records, robustness, studies
from ferkit.claims import claims_table
from ferkit.members import load_members
from ferkit.recipes import get_recipe
from ferkit.shipping import LARGEST
from ferkit.weights import SHIPPED

ROOT = atomic.project_root()
README = (ROOT / "README.md").read_text()
RESULTS = records.find_records(ROOT / "results")
ENSEMBLES = [(folder, record) for folder, record in RESULTS if ensemble_run.judges_by_members(record)]


@pytest.mark.parametrize("name", ["results", "claims"])
def test_the_tables_in_readme_are_what_the_records_and_claims_give(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    start, end = (marker.format(name) for marker in leaderboard.MARKERS)
    table = README.split(start)[1].split(end)[0].strip()
    assert table == (leaderboard.results_table("results") if name == "results" else claims_table()), "run `make tables`"


def test_the_pages_of_results_are_what_the_records_give():
    pages = {"studies.md": studies.page, "ensembles.md": ensemble_study.page, "leaks.md": leaks.page}
    for name, page in pages.items():
        assert (ROOT / "results" / name).read_text() == page(ROOT / "results"), "run `make tables`"


def test_every_study_is_in_the_campaign():
    listed = {f"{job.data}/{job.recipe.name}" for job in campaign.load_campaign(ROOT / "campaign.toml")}
    wanted = {f"{study.data}/{name}" for study in studies.STUDIES for name in study.names.values()}
    wanted |= {f"fer2013/{get_recipe(model, kind, **changes).name}" for model, kind, _, changes in studies.MEMBERS}
    wanted |= {f"fer2013/{leaks.leaking(protocol).name}" for protocol in leaks.PROTOCOLS}
    assert wanted <= listed, wanted - listed


@pytest.mark.parametrize("folder, record", RESULTS, ids=lambda value: getattr(value, "name", ""))
def test_committed_records_are_what_their_logits_give(folder, record):
    assert record["data"]["official"] and all(code["dirty"] is False for code in record["code"])
    assert records.disagreements(record["metrics"], records.measure(folder)) == []


@pytest.mark.parametrize("folder, record", ENSEMBLES, ids=lambda value: getattr(value, "name", ""))
def test_committed_ensembles_are_what_their_members_give(folder, record):
    paths, recipe = ensemble_run.member_paths(folder, record), ensemble_run.EnsembleRecipe(**record["recipe"])
    members = load_members(paths, recipe.views)
    wanted = ensemble_run.combined(members, members.fit(recipe.method, recipe.tempered, recipe.seed))
    found = records.load_logits(folder)
    for key in found:
        exact = not key.endswith(("logits", "logits_flip"))
        assert (found[key] == wanted[key]).all() if exact else np.abs(found[key] - wanted[key]).max() < 0.02, key


@pytest.mark.parametrize("file", sorted((ROOT / "results").rglob(robustness.FILE)), ids=lambda file: file.parent.name)
def test_what_was_corrupted_is_what_was_judged(file):
    arrays, logits = robustness.load_robustness(file.parent), records.load_logits(file.parent)
    assert all((arrays[key] == logits[f"PrivateTest_{key}"]).all() for key in ("rows", "labels"))
    assert (arrays["clean"] == logits["PrivateTest_logits"].argmax(1)).mean() > 0.999  # ties of float16


def test_the_file_tree_of_readme_is_the_truth():
    tree = README.split("```text")[1].split("```")[0]
    named = set(re.findall(r"[\w./-]+\.(?:py|toml|txt|json|md|ipynb)\b", tree))
    python = {path.name for path in (ROOT / "ferkit").rglob("*.py")} - {"__init__.py", "__main__.py"}
    named = {name.rsplit("/", 1)[-1] for name in named}
    assert named >= python, python - named
    everything = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts and "build" not in path.parts}
    assert named <= everything, named - everything


def test_kernel_metadata_is_whole():
    metadata = json.loads((ROOT / "kernel-metadata.json").read_text())
    assert metadata["code_file"] == "build/kaggle/ferkit.ipynb" and 5 <= len(metadata["title"]) <= 50
    assert metadata["enable_internet"] is False and re.fullmatch(r"[\w-]+/[\w-]+", metadata["id"])


def test_every_bound_has_a_tested_version():
    bounds = re.findall(r"^([\w-]+)>=", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pins = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert set(bounds) <= set(pins) and "==" not in (ROOT / "requirements.txt").read_text()


def test_no_large_file_and_no_pixels_are_tracked():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\n") if name]
    sizes = {path: path.stat().st_size for path in files if path.exists()}
    assert sizes.pop(SHIPPED, 0) <= LARGEST  # the weights in the package
    assert not [path for path, size in sizes.items() if size > 1_000_000]
    pictures = [path for path in files if path.suffix in (".csv", ".png", ".jpg", ".npy", ".pt")]
    assert not [path for path in pictures if path.name != "log.csv"]


def test_import_is_cheap():
    code = "import sys, ferkit, ferkit.cli, ferkit.pixels; sys.exit('torch' in sys.modules)"
    import sys

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
