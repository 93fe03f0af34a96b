"""A server on this machine that speaks the part of the Hugging Face Hub's protocol that downloads and commits use."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_token"
COMMIT = "0123456789" * 4


class HubServer(ThreadingHTTPServer):
    """Repositories by name: the content of each file by its path. Names in ``private`` need the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/whoami"):
            if self._known():
                self._json({"type": "user", "name": "user", "auth": {}})
            else:
                self._error(401, "", "Invalid username or password")
        else:
            self._resolve(body=True)

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":  # of the card
            self._json({"errors": [], "warnings": []})
        elif not self._known():
            self._error(401, "", "Invalid username or password")
        elif self.path == "/api/repos/create":
            values = json.loads(content)
            name = "/".join(filter(None, (values.get("organization"), values["name"])))
            name = name if "/" in name else f"user/{name}"
            if not name.startswith("user/"):
                self._error(403, "", "You don't have the rights to create a model under this namespace")
                return
            self.server.repositories.setdefault(name, {})
            if values.get("private") or values.get("visibility") == "private":
                self.server.private.add(name)
            self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif match := re.fullmatch(r"/api/models/(user/[\w.-]+)/preupload/main", self.path):
            files = [entry["path"] for entry in json.loads(content)["files"]]
            self._json(
                {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
            )
        elif match := re.match(r"/api/models/(user/[\w.-]+)/commit/main", self.path):
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    data = base64.b64decode(line["value"]["content"])
                    self.server.repositories[match[1]][line["value"]["path"]] = data
            url = f"{self.server.address}/{match[1]}/commit/{COMMIT}"
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self._error(404, "", self.path)

    def _resolve(self, *, body: bool) -> None:
        self.server.requests.append(self.path)
        match = re.fullmatch(
            r"/(?:api/models/)?([\w.-]+/[\w.-]+)/(?:resolve|revision)/([^/]+)(?:/(.+))?", self.path
        )
        repository = self.server.repositories.get(match[1]) if match else None
        if match is None or repository is None or (match[1] in self.server.private and not self._known()):
            self._error(401, "RepoNotFound", "Repository not found")
        elif match[2] not in ("main", "v1", COMMIT):
            self._error(404, "RevisionNotFound", "Invalid rev id")
        elif match[3] is None:
            self._json({"id": match[1], "sha": COMMIT, "siblings": [{"rfilename": p} for p in repository]})
        elif match[3] not in repository:
            self._error(404, "EntryNotFound", "Entry not found")
        else:
            content = repository[match[3]]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(self, values: object) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()
