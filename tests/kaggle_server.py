"""A stand-in for Kaggle on the loopback interface, which speaks the calls that the official client makes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Kaggle(ThreadingHTTPServer):
    """What it is asked is in `calls`, what was pushed in `pushed`; the other attributes are what it answers.

    trouble: call -> an HTTP status, "drop" (the connection ends midway, once) or "slow" (no answer before the end).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.pushed: list[dict] = []
        self.trouble: dict[str, int | str] = {}
        self.refusal = ""  # why a push is not taken, with HTTP status 200
        self.version = {"versionNumber": 1, "url": "https://www.kaggle.com/code/someone/ferkit"}
        self.state, self.message, self.log = "COMPLETE", "", ""
        self.files: dict[str, bytes] = {}  # a kernel's output
        self.body = b""  # of every data set and competition
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What sends the client here."""
        here = f"http://127.0.0.1:{self.server_port}"
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": here, "no_proxy": "127.0.0.1"}

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def answer(self, call: str, asked: bytes) -> bytes:
        if call == "SaveKernel":
            self.pushed.append(json.loads(asked))
            return json.dumps({"error": self.refusal} if self.refusal else self.version).encode()
        if call == "GetKernelSessionStatus":
            return json.dumps({"status": self.state, "failureMessage": self.message}).encode()
        if call == "ListKernelSessionOutput":
            files = [{"fileName": name, "url": f"http://localhost/file/{name}"} for name in self.files]
            return json.dumps({"files": files, "log": self.log}).encode()
        if call == "IntrospectToken":
            return json.dumps({"active": True, "username": "someone"}).encode()
        if call == "GetDatasetMetadata":
            return b"{}"
        return self.files.get(call, self.body)

    def handle_error(self, request, client_address) -> None:
        """The client may be gone."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = self.path.partition("/file/")[2] or self.path.rpartition("/")[2]
        trouble = self.server.trouble.get(call)
        if trouble == "drop":
            del self.server.trouble[call]
        if trouble == "slow":
            self.server.over.wait()
        answer = b"" if isinstance(trouble, int) else self.server.answer(call, asked)
        elsewhere = answer and not trouble and call.startswith("Download")  # archives are on another machine
        self.send_response(trouble if isinstance(trouble, int) else 302 if elsewhere else 200 if answer else 403)
        if elsewhere:
            self.send_header("Location", "http://localhost/file/archive")
            answer = b""
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if trouble == "drop" else answer)
        self.close_connection = True

    do_GET = do_POST

    def log_message(self, *arguments) -> None:
        self.server.calls.append(self.path)
