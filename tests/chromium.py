"""Headless Chromium over its DevTools protocol: opens pages, evaluates expressions, keeps every complaint."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
           "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
           "--remote-debugging-port=0")  # fmt: skip


class Browser:
    """A context manager; `problems` are the console errors, exceptions and failed or outside requests of the page."""

    def __enter__(self) -> "Browser":
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={self.folder.name}", "about:blank"], stderr=subprocess.DEVNULL
        )
        marker, until = Path(self.folder.name) / "DevToolsActivePort", time.monotonic() + 60
        while not marker.exists() or not marker.read_text().strip():
            assert self.process.poll() is None and time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{marker.read_text().split()[0]}/json") as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        self.socket = websocket.create_connection(
            pages[0]["webSocketDebuggerUrl"], timeout=60, suppress_origin=True, enable_multithread=False
        )
        self.number, self.problems, self.loaded = 0, [], False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        self.folder.cleanup()

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        number = self.number
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self._receive()).get("id") != number:
            pass
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _receive(self) -> dict:
        message = json.loads(self.socket.recv())
        about = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.exceptionThrown":
                self.problems.append(about["exceptionDetails"].get("exception", about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "assert"):
                self.problems.append(about["args"])
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.problems.append(about["entry"]["text"])
            case "Network.loadingFailed":
                self.problems.append(about["errorText"])
            case "Network.requestWillBeSent" if not about["request"]["url"].startswith(("file:", "data:")):
                self.problems.append(about["request"]["url"])
        return message

    def open(self, address: str) -> None:
        """Go there and wait until everything is loaded; complaints of the page before are forgotten."""
        self.problems, self.loaded = [], False
        assert "errorText" not in self.call("Page.navigate", url=address)
        while not self.loaded:
            self._receive()
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str):
        """What an expression gives, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, on what has the focus."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, path: str | Path, height: int) -> None:
        width = self.value("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))
