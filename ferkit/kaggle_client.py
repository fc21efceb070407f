"""The official Kaggle client as a process of its own: credentials found and kept private, failures in plain words."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from ferkit import DataError

SETTINGS = "https://www.kaggle.com/settings/api"
CREDENTIALS = f"""no Kaggle credentials found. Two ways to get them, both at {SETTINGS}:
  1. "Generate New Token": set it as KAGGLE_API_TOKEN, or save it to ~/.kaggle/access_token
  2. "Create Legacy API Key": save the kaggle.json it gives you to ~/.kaggle/kaggle.json and run chmod 600 on it"""
FILES = ("access_token", "access_token.txt", "kaggle.json", "credentials.json")
HIDDEN = "[hidden]"
PATIENCE = 300.0  # seconds in which Kaggle has to answer a question
NO_ANSWER = "no answer from Kaggle"
REASONS = (  # what the client says, first match wins -> what that means
    (NO_ANSWER, "Kaggle did not answer in time; try again later"),
    (r"\b401\b|Authentication required", f"Kaggle does not accept the credentials; make new ones at {SETTINGS}"),
    (r"quota|Maximum .*(GPU|session)", "Kaggle grants no more GPU time now; https://www.kaggle.com/settings shows your "
     "quota and when it is renewed, https://www.kaggle.com/code what still runs"),
    (r"\b403\b|was denied", "Kaggle refuses it; is the name right, is it yours, are its rules accepted on Kaggle?"),
    (r"\b404\b|not found", "Kaggle knows nothing of that name; push it first, or check the spelling"),
    (r"\b429\b|Too Many Requests", "too many requests; wait some minutes, then try again"),
    (r"\b5\d\d Server Error", "Kaggle itself has a failure; try again later"),
    (r"\w*Connection\w*|ProtocolError|ChunkedEncodingError|Timeout|IncompleteRead|Max retries",
     "the connection to Kaggle broke; try again"),
)  # fmt: skip


def credential_files() -> list[Path]:
    """The files in which the client looks for credentials, those that exist."""
    home = Path.home() / ".kaggle"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    places = dict.fromkeys((home, config, Path(os.environ.get("KAGGLE_CONFIG_DIR") or home)))
    token = Path(os.environ.get("KAGGLE_API_TOKEN") or ".")  # the client takes it as a file's name where it is one
    return [file for file in (*(place / name for place in places for name in FILES), token) if _is_file(file)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a token that is too long for a name
        return False


def has_credentials() -> bool:
    """Whether the official client would find any, in its own places."""
    return bool({"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ) or os.environ.get("KAGGLE_API_TOKEN")
                or credential_files())  # fmt: skip


def check_credentials() -> None:
    """DataError without credentials, or where a file of them can be read by others."""
    if not has_credentials():
        raise DataError(CREDENTIALS)
    for file in credential_files():
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise DataError(f"{file} can be read by other people of this machine; run: chmod 600 {file}")


def user_name() -> str:
    """Whose credentials these are: by the environment, kaggle.json, else the client; empty where nothing tells."""
    if os.environ.get("KAGGLE_USERNAME"):
        return os.environ["KAGGLE_USERNAME"]
    for file in credential_files():
        if name := _fields(file).get("username"):
            return str(name)
    said = call("config", "view", show=False)[1] if has_credentials() else ""
    found = re.search(r"^- username: (\S+)$", said, re.MULTILINE)
    return found[1] if found and found[1] != "None" else ""


def secrets() -> list[str]:
    """The credentials themselves, wherever the client would find them."""
    values = [os.environ.get(name, "") for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN")]
    for file in credential_files():
        fields = _fields(file)
        values += [str(value) for name, value in fields.items() if re.search("key|token", name)]
        values += [] if fields else [file.read_text(errors="replace")]
    return [value for value in map(str.strip, values) if len(value) >= 8 and not _is_file(Path(value))]


def _fields(file: Path) -> dict:
    """What a JSON file of credentials holds; of any other nothing."""
    try:
        fields = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def call(*arguments: str, show: bool = True, patience: float | None = None) -> tuple[int, str]:
    """Run the client; its status and all that it said, credentials hidden.

    show: pass on what it says, as it says it (a progress bar too), to stderr. patience: seconds after which it is
    ended, and said to have had no answer; None: it may take as long as it wants.
    """
    command = [sys.executable, "-P", "-m", "kaggle", *arguments]  # -P: not a kaggle.py of the current folder
    hide, said, rest, late = secrets(), "", b"", threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        timer = threading.Timer(patience or 0, lambda: (late.set(), process.kill()))
        timer.daemon = True  # Ctrl-C ends the process at once
        if patience:
            timer.start()
        while part := process.stdout.read1():
            rest += part
            cut = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1  # whole lines: a credential is never cut in two
            text, rest = _hidden(rest[:cut], hide), rest[cut:]
            said += text
            if show and text:
                print(text, end="", file=sys.stderr, flush=True)
        timer.cancel()
    last = _hidden(rest, hide)
    if show and last:
        print(last, file=sys.stderr, flush=True)
    return process.returncode, said + last + (f"\n{NO_ANSWER}" if late.is_set() else "")


def _hidden(text: bytes, secrets: list[str]) -> str:
    said = text.decode(errors="replace")
    for secret in secrets:
        said = said.replace(secret, HIDDEN)
    return said


def failure(doing: str, said: str) -> DataError:
    """What failed, why as far as the client's words tell, and the words."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing"]
    for pattern, meaning in REASONS:
        matching = [line for line in lines if re.search(pattern, line)]
        if matching:
            return DataError(f"{doing}: {meaning} (the client: {matching[-1]})")
    return DataError(f"{doing}: {' / '.join(lines[-3:])}; run it again")
