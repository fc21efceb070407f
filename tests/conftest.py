"""What the tests share: small made-up FER2013 files, and the real data where FERKIT_DATA points at it."""

import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
from kaggle_server import Kaggle

from ferkit import sources
from ferkit.labels import CLASSES, USAGES, VOTES


def pytest_collection_modifyitems(items):
    """The notebooks first, each on its own; of what follows a file is one process's (pytest -n --dist loadgroup)."""
    items.sort(key=lambda item: "embedded_notebooks" not in item.nodeid)
    for item in items:
        if "embedded_notebooks" not in item.nodeid:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("FERKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def real_faces():
    if not os.environ.get("FERKIT_DATA"):
        pytest.skip("FERKIT_DATA does not point at the real FER2013")
    return sources.load(os.environ["FERKIT_DATA"], cache=False)


class Sample:
    """A tiny FER2013: 7 classes x 3 splits, twice; and writers of the layouts it comes in."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.usage = np.repeat(np.arange(3), 14)
        self.labels = np.tile(np.arange(7), 6)
        self.images = rng.integers(0, 256, (42, 48, 48), dtype=np.uint8)
        self.images[0, 0, :3] = (0, 9, 255)
        self.votes = rng.multinomial(10, np.full(10, 0.1), 42)

    def line(self, i: int, order: str = "epu") -> str:
        fields = {"e": str(self.labels[i]), "p": " ".join(map(str, self.images[i].ravel())), "u": USAGES[self.usage[i]]}
        return ",".join(fields[key] for key in order)

    def csv(self, path: Path, order: str = "epu", rows=range(42), header: str | None = None) -> Path:
        names = {"e": "emotion", "p": "pixels", "u": "Usage"}
        lines = [header or ",".join(names[key] for key in order), *(self.line(i, order) for i in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path

    def folders(self, root: Path, suffix: str = ".png") -> Path:
        from PIL import Image

        for i, image in enumerate(self.images):
            usage = USAGES[self.usage[i]]
            folder = root / ("train" if usage == "Training" else "test") / CLASSES[self.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{usage}_{i}{suffix}")
        return root

    def ferplus(self, path: Path) -> Path:
        lines = [",".join(["Usage", "Image name", *VOTES])]
        for i, votes in enumerate(self.votes):
            lines.append(",".join([USAGES[self.usage[i]], f"fer{i:07}.png", *map(str, votes)]))
        path.write_text("\n".join(lines) + "\n")
        return path


@pytest.fixture(scope="session")
def sample() -> Sample:
    return Sample()


@pytest.fixture(scope="session")
def drawn_csv(tmp_path_factory) -> Path:
    """A fer2013.csv of 200 drawn faces, for processes of their own; its data set is called custom."""
    from ferkit.synthetic import embedded_faces

    faces, path = embedded_faces(200), tmp_path_factory.mktemp("drawn") / "fer2013.csv"
    lines = [
        f"{label},{' '.join(map(str, image.ravel()))},{USAGES[usage]}"
        for label, image, usage in zip(faces.labels.tolist(), faces.images.numpy(), faces.usage.tolist(), strict=True)
    ]
    path.write_text("\n".join(["emotion,pixels,Usage", *lines]) + "\n")
    return path


@pytest.fixture
def every_job_first(tmp_path, monkeypatch):
    """A function that takes code; the process of every job (jobs.py) runs it before anything else."""

    def install(code: str) -> None:
        folder = tmp_path / "first"
        folder.mkdir(exist_ok=True)
        guarded = 'import os\nif "FERKIT_ENDS_WITH_STDIN" in os.environ:\n' + textwrap.indent(code.strip(), "    ")
        (folder / "sitecustomize.py").write_text(guarded)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A stand-in for Kaggle that the official client is sent to, with credentials of someone and a home of its own."""
    server = Kaggle()
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.startswith(("KAGGLE", "XDG"))]:
        monkeypatch.delenv(name)
    known = {"HOME": str(tmp_path / "home"), "KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "0" * 32}
    for name, value in (known | server.environment).items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()
