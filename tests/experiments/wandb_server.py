"""A minimal W&B server that stores what a run sends."""

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "u", "entity": "team", "username": "x", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "tracegrad", "entity": {"id": "e", "name": "team"}}


class Server(ThreadingHTTPServer):
    """``bodies`` is the content of every request, ``lines`` the history as a real server would store it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.lines: dict[int, dict[str, Any]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(self.path.encode() + b" " + body)
        self._answer({"data": self._data(json.loads(body))} if "graphql" in self.path else self._kept(body))

    do_PUT = do_POST

    def do_GET(self) -> None:
        self._answer({})

    def log_message(self, *_: Any) -> None: ...

    def _kept(self, body: bytes) -> dict[str, Any]:
        if "file_stream" in self.path:
            history = (json.loads(body).get("files") or {}).get("wandb-history.jsonl")
            for i, line in enumerate(history["content"] if history else []):
                self.server.lines[history["offset"] + i] = json.loads(line)
        return {}

    def _data(self, request: dict[str, Any]) -> dict[str, Any]:
        text, lines = request["query"], len(self.server.lines)
        bucket = {"id": "b", "name": "b", "displayName": "b", "config": "{}", "historyLineCount": lines}
        if "upsertBucket" in text:
            return {"upsertBucket": {"bucket": bucket | {"project": PROJECT}, "inserted": lines == 0}}
        if "historyTail" in text:
            last = json.dumps([json.dumps(self.server.lines[lines - 1])]) if lines else "[]"
            counts = {"logLineCount": 0, "eventsLineCount": 0, "historyTail": last, "eventsTail": "[]"}
            found = bucket | counts | {"summaryMetrics": "{}", "tags": [], "wandbConfig": '{"t": 1}'}
            return {"model": {"id": "p", "bucket": found if lines else None}}
        if "createArtifact(" in text:
            artifact = {
                "id": "a",
                "state": "COMMITTED",
                "artifactSequence": {"id": "s", "latestArtifact": None},
            }
            return {"createArtifact": {"artifact": artifact}}
        if "createRunFiles" in text:
            names = request["variables"]["files"]
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in names]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"viewer": VIEWER, "serverInfo": {"features": []}}

    def _answer(self, values: dict[str, Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
