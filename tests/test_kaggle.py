"""The kernel: built, pushed by the real client to a stand-in for Kaggle, and what was pushed executed on its own."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from ferkit import DataError, atomic, cli, kaggle_client, packing
from ferkit import kaggle as kernels

KEY = "5ecret0123456789abcdef0123456789"
NO_NETWORK = """
import socket

connect = socket.socket.connect


def local(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(f"no network, and something connects to {address}")
    return connect(self, address)


socket.socket.connect = local
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder as `build` writes it, in the quick profile, with a credential about."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAGGLE_USERNAME", "someone")
        patch.setenv("KAGGLE_KEY", KEY)
        assert cli.main(["kaggle", "build", "--out", str(folder), "--profile", "quick", "--minutes", "30"]) == 0
    return folder


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def change(folder: Path, **values) -> None:
    metadata = kernels.read_metadata(folder) | values
    (folder / kernels.METADATA).write_text(json.dumps(metadata))


def cells(notebook: dict) -> dict[str, str]:
    return {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"]}


def unpacked(notebook: dict) -> tarfile.TarFile:
    payload = re.search(r"^payload = '(\S+)'", cells(notebook)["kernel-03"], re.MULTILINE)[1]
    return tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload)))


# --- what is built ---


def test_the_notebook_carries_the_package_and_no_more(built):
    notebook = json.loads((built / kernels.NOTEBOOK).read_text())
    assert (built / kernels.NOTEBOOK).stat().st_size < 600_000
    parameters = cells(notebook)["kernel-01"]
    assert "profile = 'quick'  # quick: a check" in parameters and "minutes = 30.0  # of the session" in parameters
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    with unpacked(notebook) as archive:
        names = set(archive.getnames())
    root = atomic.project_root()
    python = {path.relative_to(root).as_posix() for path in (root / "ferkit").rglob("*.py")}
    assert python <= names and "notebooks/07_baselines.ipynb" in names
    allowed = r"(ferkit/[\w/]+\.(py|css|js)|notebooks/\d\d_\w+\.ipynb|results/\S+\.(json|npz|csv)|\w+\.(toml|txt))"
    assert not [name for name in names if not re.fullmatch(allowed, name)]


def test_metadata_names_the_user_and_the_top_level_file_names_the_notebook(built, copy):
    metadata = kernels.read_metadata(built)
    assert metadata["id"] == "someone/ferkit" and metadata["code_file"] == kernels.NOTEBOOK
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and metadata["enable_internet"] is False
    assert kernels.check(built) == metadata
    top = kernels.read_metadata(atomic.project_root())
    assert top["code_file"] == "build/kaggle/ferkit.ipynb" and top["id"] == f"{kernels.PLACEHOLDER}/ferkit"
    kernels.build(copy, "someone", resume=True)
    assert kernels.read_metadata(copy)["kernel_sources"] == ["someone/ferkit"]


def test_the_same_files_make_the_same_archive():
    files = kernels.bundle(atomic.project_root())
    assert kernels.pack(files) == kernels.pack(files)
    assert "fer2013/compact-s0" in files[kernels.DONE].decode().split()


def test_what_kaggle_would_not_take_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "LIMIT", 100_000)
    with pytest.raises(DataError, match="Kaggle takes less than 100,000"):
        kernels.build(tmp_path, "someone")
    with pytest.raises(ValueError, match="at most 720 minutes"):
        kernels.build(tmp_path, "someone", minutes=800)
    with pytest.raises(ValueError, match="no notebook 77"):
        kernels.build(tmp_path, "someone", only="77")
    assert not list(tmp_path.iterdir())


# --- credentials ---


def test_no_credential_is_built_in_or_told(kaggle, built, copy, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    assert not [file for file in built.iterdir() if KEY in file.read_text()]
    with unpacked(json.loads((built / kernels.NOTEBOOK).read_text())) as archive:
        assert not [entry.name for entry in archive if KEY.encode() in archive.extractfile(entry).read()]
    monkeypatch.setenv("KAGGLE_API_TOKEN", f"{KEY}\nx")  # of which the client complains word by word
    assert cli.main(["kaggle", "status", "someone/ferkit"]) == 1
    said = capfd.readouterr()
    assert KEY not in said.out + said.err
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "root" / "ferkit").mkdir(parents=True)
    (tmp_path / "root" / "ferkit" / "x.py").write_text(f"key = {KEY!r}")
    with pytest.raises(DataError, match="ferkit/x.py holds one of your Kaggle credentials"):
        kernels.bundle(tmp_path / "root")


def test_what_the_client_says_comes_without_credentials(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    assert kaggle_client._hidden(f"Bearer {KEY}!".encode(), kaggle_client.secrets()) == "Bearer [hidden]!"


@pytest.mark.parametrize("name", ["kaggle.json", "access_token", "credentials.json"])
def test_credentials_that_others_can_read_are_refused(kaggle, built, tmp_path, monkeypatch, name):
    monkeypatch.delenv("KAGGLE_KEY")
    file = tmp_path / "home" / ".kaggle" / name
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"username": "someone", "key": KEY}))
    file.chmod(0o640)
    with pytest.raises(DataError, match=f"{name} can be read by other people of this machine; run: chmod 600 .*{name}"):
        kernels.push(built)
    assert not kaggle.calls


def test_without_credentials_the_two_ways_are_named(kaggle, built, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(DataError, match="KAGGLE_API_TOKEN(.|\n)*kaggle.json"):
        kernels.push(built)


def test_whose_kernel_it_is(kaggle, tmp_path, monkeypatch):
    assert kaggle_client.user_name() == "someone"
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    assert kaggle_client.user_name() == ""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t" * 20)  # only Kaggle knows whose that is
    assert kaggle_client.user_name() == "someone"
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "home" / ".kaggle").mkdir(parents=True, exist_ok=True)
    (tmp_path / "home" / ".kaggle" / "kaggle.json").write_text('{"username": "other", "key": "k"}')
    assert kaggle_client.user_name() == "other"


# --- before a push ---


@pytest.mark.parametrize(
    "values, told",
    [
        ({"title": "fer"}, "the title has 3 characters, Kaggle takes 5 to 50"),
        ({"title": "f" * 51}, "the title has 51 characters"),
        ({"title": "Faces, honestly"}, "at someone/faces-honestly, not at someone/ferkit"),
        ({"code_file": "other.ipynb"}, "there is no .*other.ipynb"),
        ({"id": f"{kernels.PLACEHOLDER}/ferkit"}, "names no user; build again with --user"),
        ({"id": "ferkit"}, "names no user"),
    ],
)
def test_what_kaggle_would_not_take_is_not_pushed(kaggle, copy, values, told):
    change(copy, **values)
    with pytest.raises(DataError, match=told):
        kernels.push(copy)
    assert not kaggle.calls


def test_a_folder_without_a_kernel_is_told(kaggle, tmp_path, capsys):
    assert cli.main(["kaggle", "push", str(tmp_path)]) == 1
    assert "no readable kernel-metadata.json" in capsys.readouterr().err


# --- the official client against a stand-in for Kaggle ---


def test_what_is_pushed_is_what_was_built(kaggle, built, capsys):
    assert cli.main(["kaggle", "push", str(built)]) == 0
    assert "version 1 successfully pushed" in capsys.readouterr().out
    (pushed,) = kaggle.pushed
    assert (pushed["slug"], pushed["newTitle"]) == ("someone/ferkit", "ferkit")
    assert pushed["machineShape"] == "NvidiaTeslaT4" and pushed["datasetDataSources"] == ["msambare/fer2013"]
    assert (pushed["enableGpu"], pushed["enableInternet"], pushed["isPrivate"]) == (True, False, True)
    assert cells(json.loads(pushed["text"])) == cells(json.loads((built / kernels.NOTEBOOK).read_text()))
    assert len(pushed["text"]) < kernels.LIMIT


def test_what_could_not_be_attached_is_told(kaggle, built):
    kaggle.version |= {"invalidDatasetSources": ["msambare/fer2013"]}
    assert re.search(r"not valid dataset sources.*msambare/fer2013.*\n.*successfully pushed", kernels.push(built))


@pytest.mark.parametrize(
    "refusal, told",
    [
        ("Maximum weekly GPU quota of 30.00 hours reached.", "no more GPU time now.*your quota.*30.00 hours"),
        ("Maximum batch GPU session count of 2 reached.", "no more GPU time now.*what still runs.*count of 2"),
        ("Notebook not found", "knows nothing of that name"),
        ("Something new", "could not push someone/ferkit: Kernel push error: Something new"),
    ],
)
def test_a_refusal_is_told_though_the_client_calls_it_a_success(kaggle, built, refusal, told):
    kaggle.refusal = refusal
    with pytest.raises(DataError, match=told):
        kernels.push(built)


TROUBLE = {
    401: "does not accept the credentials; make new ones at https://www.kaggle.com/settings/api",
    403: "Kaggle refuses it; is the name right",
    404: "knows nothing of that name",
    429: "too many requests; wait some minutes",
    500: "Kaggle itself has a failure",
    "drop": "the connection to Kaggle broke",
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_failures_are_told_in_one_line(kaggle, built, trouble):
    kaggle.trouble = {"SaveKernel": trouble}
    with pytest.raises(DataError, match=f"could not push someone/ferkit: .*{TROUBLE[trouble]}.*the client: ") as raised:
        kernels.push(built)
    assert "\n" not in str(raised.value)


def test_kaggle_that_is_not_there_and_kaggle_that_does_not_answer(kaggle, monkeypatch):
    monkeypatch.setattr(kernels, "PATIENCE", 3.0)
    kaggle.trouble = {"GetKernelSessionStatus": "slow"}
    with pytest.raises(DataError, match="no status of someone/ferkit: Kaggle did not answer in time"):
        kernels.status("someone/ferkit")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="the connection to Kaggle broke"):
        kernels.logs("someone/ferkit")


def test_a_failed_kernel_is_told_with_the_end_of_its_log(kaggle, capsys):
    assert cli.main(["kaggle", "status", "someone/ferkit"]) == 0 and "COMPLETE" in capsys.readouterr().out
    kaggle.state, kaggle.message = "ERROR", "the notebook threw an exception"
    lines = [{"stream_name": "stdout", "time": i, "data": f"line {i}\n"} for i in range(40)]
    kaggle.log = json.dumps(lines)
    assert cli.main(["kaggle", "status", "someone/ferkit"]) == 1
    said = capsys.readouterr().err
    assert "threw an exception" in said and "line 39" in said and "line 25" in said and "line 24" not in said
    assert cli.main(["kaggle", "logs", "someone/ferkit"]) == 0
    assert capsys.readouterr().out.startswith("line 0\nline 1\n")


def test_a_kernel_that_is_not_there(kaggle, tmp_path):
    kaggle.trouble = {"GetKernelSessionStatus": 403, "ListKernelSessionOutput": 404}
    with pytest.raises(DataError, match=r"no status of someone/nothing: Kaggle refuses it; is the name right"):
        kernels.status("someone/nothing")
    with pytest.raises(DataError, match="could not fetch the output of someone/nothing: Kaggle knows nothing"):
        kernels.output("someone/nothing", tmp_path / "there")


def test_the_output_is_fetched_and_its_archive_named(kaggle, tmp_path, capsys):
    packing.pack([atomic.project_root() / "results" / "fer2013" / "compact-s0"], tmp_path / "runs.zip")
    kaggle.files = {"runs.zip": (tmp_path / "runs.zip").read_bytes(), "runs/a/b/log.csv": b"1\n"}
    to = tmp_path / "to"
    assert cli.main(["kaggle", "output", "someone/ferkit", "--to", str(to)]) == 0
    assert f"ferkit campaign merge {to / 'runs.zip'}" in capsys.readouterr().out
    assert (to / "runs.zip").read_bytes() == kaggle.files["runs.zip"] and (to / "runs/a/b/log.csv").exists()
    kaggle.files[kernels.NAMES_FAILED] = b"suite\nreport\n"
    assert cli.main(["kaggle", "output", "someone/ferkit", "--to", str(tmp_path / "failed")]) == 1
    assert "steps of that session failed: suite, report; see ferkit kaggle logs" in capsys.readouterr().err
    del kaggle.files[kernels.NAMES_FAILED]  # the next version ended well
    assert cli.main(["kaggle", "output", "someone/ferkit", "--to", str(tmp_path / "failed")]) == 0
    kaggle.trouble = {"runs.zip": "drop"}
    with pytest.raises(DataError, match="the connection to Kaggle broke"):
        kernels.output("someone/ferkit", tmp_path / "again")


# --- what was pushed, executed on its own ---


@pytest.fixture
def bare(tmp_path) -> Path:
    """An interpreter that has the libraries and not ferkit, and connects to nothing but this machine."""
    venv.create(tmp_path / "bare", symlinks=True)
    own = tmp_path / "bare" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files nobody reads
    (own / "sitecustomize.py").write_text(NO_NETWORK)
    return tmp_path / "bare" / "bin" / "python"


def nothing() -> dict[str, str]:
    """An environment that tells where no ferkit is."""
    return {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}


def execute(bare: Path, notebook: Path, out: Path, **parameters) -> subprocess.CompletedProcess:
    """By papermill from another folder, with a made-up home and credentials in the environment."""
    home = out.parent / "home"
    home.mkdir(exist_ok=True)
    environment = nothing() | {"HOME": str(home), "TMPDIR": str(home), "KAGGLE_KEY": KEY, "KAGGLE_USERNAME": "someone"}
    given = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [bare, "-m", "papermill", notebook, out, "-k", "python3", "--no-progress-bar", *given]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)


def said_by(notebook: Path) -> str:
    outputs = [out for cell in json.loads(notebook.read_text())["cells"] for out in cell.get("outputs", [])]
    return "".join("".join(out.get("text", "")) for out in outputs)


def test_what_was_pushed_runs_on_its_own_and_goes_on(kaggle, built, bare, drawn_csv, tmp_path):
    kernels.push(built)
    notebook = tmp_path / "pushed.ipynb"
    notebook.write_text(kaggle.pushed[0]["text"])
    for code, told in (
        ("import torch, ferkit", "No module named 'ferkit'"),
        ("import socket; socket.create_connection(('192.0.2.1', 80))", "no network"),
    ):
        ran = subprocess.run([bare, "-c", code], cwd=tmp_path, env=nothing(), capture_output=True, text=True)
        assert told in ran.stderr

    inputs, first, second, third = (tmp_path / name for name in ("input", "first", "second", "third"))
    shutil.copytree(drawn_csv.parent, inputs / "datasets" / "someone" / "faces")
    paths = [inputs, *inputs.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(map(str, paths))
    ran = execute(bare, notebook, tmp_path / "1.ipynb", input_folder=inputs, working_folder=first, only="00,07")
    assert ran.returncode == 0, ran.stderr + said_by(tmp_path / "1.ipynb")
    said = said_by(tmp_path / "1.ipynb")
    assert f"data: {inputs}/datasets/someone/faces" in said and "2 of 2 notebooks ran" in said
    run = first / "runs" / "custom" / "compact-quick-s0"
    assert (run / "best.safetensors").exists() and not (run / "last.pt").exists()
    executed = sorted(path.name for path in (first / "notebooks").glob("*.ipynb"))
    assert executed == ["00_start_here.ipynb", "07_baselines.ipynb"]
    assert (first / "report" / "index.html").exists()
    assert {"notebooks", "runs", "runs.zip"} <= {path.name for path in first.iterdir()}
    assert sorted(map(str, [inputs, *inputs.rglob("*")])) == before  # the input is only read
    records_there = packing.merge(first / "runs.zip", tmp_path / "merged")
    assert records_there == ["custom/compact-quick-s0: recorded"]

    inputs.chmod(0o755)
    shutil.copytree(first, inputs / "ferkit")  # the output of the last version, attached
    ran = execute(bare, notebook, tmp_path / "2.ipynb", input_folder=inputs, working_folder=second, only="07")
    assert ran.returncode == 0, ran.stderr + said_by(tmp_path / "2.ipynb")
    assert "runs: 1 runs taken from" in said_by(tmp_path / "2.ipynb")
    again = second / "runs" / "custom" / "compact-quick-s0" / "record.json"
    assert again.read_bytes() == (run / "record.json").read_bytes()  # not trained anew

    ran = execute(bare, notebook, tmp_path / "3.ipynb", input_folder=inputs, working_folder=third, minutes=0.2)
    said = said_by(tmp_path / "3.ipynb")
    assert ran.returncode == 0, ran.stderr + said
    assert "suite: its time was up" in said and (third / "runs.zip").exists()
    assert (third / "runs" / "custom" / "compact-quick-s0" / "record.json").exists()

    for file in (path for place in (first, second, third) for path in place.rglob("*") if path.is_file()):
        assert KEY.encode() not in file.read_bytes(), file
    assert not [path for path in tmp_path.glob("*.ipynb") if KEY in path.read_text()]
