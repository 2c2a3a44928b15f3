"""As much of a model hub as huggingface_hub asks for to commit and to download, in memory, on a local port."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """``with Hub() as hub``: repositories are dictionaries of file names and contents in ``hub.repositories``."""

    def __init__(self):
        self.repositories, self.private = {}, {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        if parts[:2] == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if name not in self.hub.repositories:
            return self._missing()
        if parts[4] == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self._json({"files": [{**file, "shouldIgnore": False} for file in files]})
        lines = [json.loads(line) for line in body.splitlines()]
        added = [line["value"] for line in lines if line["key"] == "file"]
        self.hub.repositories[name] |= {file["path"]: base64.b64decode(file["content"]) for file in added}
        return self._json(
            {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{self._commit(name)}", "commitOid": self._commit(name)}
        )

    def do_GET(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            return self._missing()
        if api:
            siblings = [{"rfilename": path} for path in files]
            if parts[4:5] == ["tree"]:
                return self._json(
                    [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()]
                )
            return self._json({"id": name, "sha": self._commit(name), "siblings": siblings, "tags": []})
        content = files["/".join(parts[4:])]
        return self._send(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": self._commit(name)})

    do_HEAD = do_GET  # noqa: N815  # a name of http.server

    def _commit(self, name):
        return hashlib.sha1(repr(self.hub.repositories[name]).encode()).hexdigest()

    def _missing(self):
        self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

    def _json(self, value):
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, content, headers, status=200):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


def _oid(content):
    return hashlib.sha1(content).hexdigest()
