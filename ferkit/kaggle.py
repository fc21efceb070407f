"""One self-contained Kaggle kernel: written, pushed, asked after and fetched by the official client.

`python -m kaggle` and `import kaggle` are that client; this module is `from ferkit import kaggle`.
"""

import base64
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

from ferkit import DataError
from ferkit.atomic import project_root, write_whole
from ferkit.kaggle_client import PATIENCE, call, check_credentials, failure, secrets, user_name

METADATA = "kernel-metadata.json"
NOTEBOOK = "ferkit.ipynb"
TEMPLATE = "ferkit/kernel.ipynb"
DONE = "done.txt"  # in the bundle: the runs whose records results/ has, so that no session trains them again
BUNDLE = (  # what the kernel carries: the package, the notebooks, and the records that notebook 00 recomputes
    "ferkit/**/*.py", "ferkit/assets/report.*", "notebooks/[0-9][0-9]_*.ipynb", "pyproject.toml", "requirements.txt",
    "campaign.toml", "results/audit/*.json", "results/studies/*.json", "results/fer2013/compact-s0/*",
)  # fmt: skip
LIMIT = 1_000_000  # bytes: "The kernel source must be less than 1 megabytes in size."
LONGEST = 720  # minutes that Kaggle gives a session; what it has not ended by then is lost
MINUTES = 660
PLACEHOLDER = "your-name"
TITLE = range(5, 51)  # characters
LAST = 15  # lines of a failed kernel's log
FAILED = r"ERROR|CANCEL"
NAMES_FAILED = "FAILED.txt"  # in the output: the steps of the session that failed, a line each


def bundle(root: Path) -> dict[str, bytes]:
    """The files that the kernel carries, by name, in order; DataError where one holds one of your credentials."""
    paths = sorted({path for pattern in BUNDLE for path in root.glob(pattern)})
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    done = sorted(path.parent.relative_to(root / "results").as_posix() for path in root.glob("results/*/*/record.json"))
    files[DONE] = "".join(f"{name}\n" for name in done).encode()
    for name, content in files.items():
        if any(secret.encode() in content for secret in secrets()):
            raise DataError(f"{name} holds one of your Kaggle credentials; take it out, and make new ones")
    return files


def pack(files: dict[str, bytes]) -> bytes:
    """A .tar.xz that depends on nothing but names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def build(
    folder: str | Path, user: str = "", *, profile: str = "full", only: str = "", minutes: float = MINUTES,
    resume: bool = False,
) -> tuple[Path, Path]:  # fmt: skip
    """Write the kernel's notebook and metadata into a folder; their paths.

    user: whose kernel it is (default: as user_name finds it). profile, only (numbers of notebooks) and minutes (of the
    session) are its parameters. `resume` attaches the output of the kernel's last version, from which it goes on.
    Raises ValueError for numbers and minutes that there are not; DataError outside a checkout, for a notebook that
    Kaggle would find too large, or one with a credential.
    """
    from ferkit import suite
    from ferkit.machine import code_version

    if not 0 < minutes <= LONGEST:
        raise ValueError(f"a Kaggle session has more than 0 and at most {LONGEST} minutes, got {minutes}")
    suite.notebooks(only)
    root = project_root()
    if not (root / TEMPLATE).exists():
        raise DataError(f"no {TEMPLATE} in {root}; build from a clone of the repository")
    code = code_version()
    values = {
        "profile": profile, "only": only, "minutes": minutes, "commit": "" if code["dirty"] else code["commit"] or "",
        "payload": base64.b64encode(pack(bundle(root))).decode(),
    }  # fmt: skip
    text = json.dumps(_filled(json.loads((root / TEMPLATE).read_text()), values), indent=1)
    if len(text) >= LIMIT:
        raise DataError(f"the notebook has {len(text):,} bytes, Kaggle takes less than {LIMIT:,}; shrink kaggle.BUNDLE")
    metadata = json.loads((root / METADATA).read_text())
    owner, slug = metadata["id"].split("/")
    metadata = {"enable_internet": False} | metadata  # the client's own default is True
    metadata |= {"id": f"{user or user_name() or owner}/{slug}", "code_file": NOTEBOOK}
    if resume:
        metadata["kernel_sources"] = [*metadata.get("kernel_sources", []), metadata["id"]]
    paths = Path(folder) / NOTEBOOK, Path(folder) / METADATA
    for path, content in zip(paths, (text, json.dumps(metadata, indent=2)), strict=True):
        write_whole(path, content + "\n")
    return paths


def _filled(notebook: dict, values: dict) -> dict:
    """The template with values in the place of its literals: `name = ...  # why` keeps the comment."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            for i, line in enumerate(cell["source"]):
                name = line.partition(" = ")[0]
                if name in values:
                    _, hash_, comment = line.rstrip("\n").partition("  #")
                    cell["source"][i] = f"{name} = {values[name]!r}{hash_}{comment}" + "\n" * line.endswith("\n")
    return notebook


def slugify(title: str) -> str:
    """The last part of the address that Kaggle makes of a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def read_metadata(folder: str | Path) -> dict:
    """A folder's kernel-metadata.json; DataError without a readable one."""
    try:
        return json.loads((Path(folder) / METADATA).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"no readable {METADATA} in {folder} ({error}); write one with: ferkit kaggle build") from error


def check(folder: str | Path) -> dict:
    """The metadata of a folder that Kaggle would take; DataError saying what it would not."""
    metadata, file = read_metadata(folder), Path(folder) / METADATA
    owner, _, slug = metadata.get("id", "").partition("/")
    title = metadata.get("title", "")
    if not slug or owner == PLACEHOLDER:
        raise DataError(f"{file}: {metadata.get('id')!r} names no user; build again with --user NAME")
    if len(title) not in TITLE:
        raise DataError(f"{file}: the title has {len(title)} characters, Kaggle takes {TITLE[0]} to {TITLE[-1]}")
    if slugify(title) != slug:
        raise DataError(f"{file}: Kaggle would put the title {title!r} at {owner}/{slugify(title)}, not at "
                        f"{owner}/{slug}; make title and id agree")  # fmt: skip
    code = Path(folder) / metadata.get("code_file", "")
    if not code.is_file():
        raise DataError(f"{file}: there is no {code}; write it with: ferkit kaggle build")
    return metadata


def push(folder: str | Path) -> str:
    """Push what `build` wrote and start it; what Kaggle said. DataError with the reason where it did not take it."""
    name = check(folder)["id"]
    check_credentials()
    status, said = call("kernels", "push", "-p", str(folder), show=False, patience=PATIENCE)
    if status or "successfully pushed" not in said:  # a refusal has status 0
        raise failure(f"could not push {name}", said)
    kept = [line for line in said.splitlines() if "successfully pushed" in line or "not valid" in line]
    return "\n".join(kept)


def status(kernel: str) -> str:
    """How its last version is; DataError for one that failed, with the last lines of its log."""
    said = _ask("status", kernel)
    if re.search(rf'has status "\S*({FAILED})', said):
        lines = logs(kernel).splitlines()[-LAST:]
        raise DataError("\n  ".join([said.strip(), "the last lines of its log:", *lines]))
    return said.strip()


def logs(kernel: str) -> str:
    """The log of its last version as text."""
    said = _ask("logs", kernel).strip()
    try:
        return "".join(entry["data"] for entry in json.loads(said)).rstrip()
    except (ValueError, TypeError, KeyError):
        return said


def output(kernel: str, folder: str | Path) -> list[Path]:
    """Fetch what its last version left; the archives of runs in it (`ferkit campaign merge`)."""
    check_credentials()
    for file in Path(folder).rglob(NAMES_FAILED):  # of an earlier version
        file.unlink()
    code, said = call("kernels", "output", kernel, "-p", str(folder), "--force")
    if code:
        raise failure(f"could not fetch the output of {kernel}", said)
    return [path for path in sorted(Path(folder).rglob("*.zip")) if zipfile.is_zipfile(path)]


def _ask(what: str, kernel: str) -> str:
    check_credentials()
    code, said = call("kernels", what, kernel, show=False, patience=PATIENCE)
    if code:
        raise failure(f"no {what} of {kernel}", said)
    return said
