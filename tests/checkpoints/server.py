"""A loopback server that answers as the Hugging Face hub does, and counts what it is asked for."""

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories, what goes wrong, and a log of the requests.

    ``repos`` maps a name to its branches, each a mapping from file names to bytes. ``cut`` maps a
    path to how many of its bytes arrive before the connection closes, ``status`` a path to the
    answer it gets, and ``claimed`` a file name to the size that listings give it. Of ``gated``
    repositories no file is handed out.
    """

    repos: dict = field(default_factory=dict)
    cut: dict = field(default_factory=dict)
    status: dict = field(default_factory=dict)
    claimed: dict = field(default_factory=dict)
    altered: dict = field(default_factory=dict)
    gated: set = field(default_factory=set)
    log: list = field(default_factory=list)
    address: str = ""

    def commit(self, repo, revision):
        """The commit of a branch: a hash of what it holds."""
        files = self.repos[repo][revision]
        parts = [repo, revision, *(f"{n}:{_sha1(data)}" for n, data in sorted(files.items()))]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()

    def branch(self, repo, wanted):
        """The name of a branch by its name or the start of its commit, None where there is none."""
        for name in self.repos[repo]:
            if wanted == name or (len(wanted) > 6 and self.commit(repo, name).startswith(wanted)):
                return name
        return None

    def downloads(self, ending=""):
        """The (branch, file) of every GET of a file, in order."""
        found = []
        for method, path in self.log:
            if method == "GET" and "/resolve/" in path and path.endswith(ending):
                repo, _, rest = path[1:].partition("/resolve/")
                wanted, _, name = rest.partition("/")
                found.append((self.branch(repo, wanted), name))
        return found


@contextlib.contextmanager
def serve(hub):
    """Run a hub on a free port of the loopback for as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _large(name):
    return name.endswith((".safetensors", ".bin"))


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer("HEAD")

        def do_GET(self):
            self._answer("GET")

        def _answer(self, method):
            path = unquote(urlsplit(self.path).path)
            hub.log.append((method, path))
            if path in hub.status and method == "GET":
                self._send(hub.status[path], b"{}")
            elif path.startswith("/api/models/"):
                self._describe(path.removeprefix("/api/models/"))
            else:
                # A slash in the name of a branch is quoted.
                repo, _, rest = urlsplit(self.path).path[1:].partition("/resolve/")
                wanted, _, name = rest.partition("/")
                self._file(method, repo, unquote(wanted), unquote(name))

        def _describe(self, path):
            owner, name, *rest = path.split("/")
            repo, kind, wanted = f"{owner}/{name}", rest[0] if rest else "", "/".join(rest[1:])
            if repo not in hub.repos:
                self._error(401, "RepoNotFound")
            elif kind == "refs":
                branches = [
                    {"name": n, "ref": f"refs/heads/{n}", "targetCommit": hub.commit(repo, n)}
                    for n in hub.repos[repo]
                ]
                self._json({"branches": branches, "converts": [], "tags": []})
            elif (branch := hub.branch(repo, wanted or "main")) is None:
                folder = kind == "tree" and any(wanted.startswith(f"{n}/") for n in hub.repos[repo])
                self._error(404, "EntryNotFound" if folder else "RevisionNotFound")
            elif kind == "tree":
                files = hub.repos[repo][branch].items()
                self._json([self._entry(name, data) for name, data in files if "/" not in name])
            else:
                self._json({"id": repo, "sha": hub.commit(repo, branch), "siblings": []})

        def _entry(self, name, data):
            size = hub.claimed.get(name, len(data))
            entry = {"type": "file", "path": name, "size": size, "oid": _sha1(data)}
            if _large(name):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
            return entry

        def _file(self, method, repo, wanted, name):
            branch = hub.branch(repo, wanted) if repo in hub.repos else None
            data = hub.repos[repo][branch].get(name) if branch else None
            if repo in hub.gated:
                return self._error(403, "GatedRepo")
            if data is None:
                return self._error(404, "EntryNotFound" if branch else "RevisionNotFound")
            etag = hashlib.sha256(data).hexdigest() if _large(name) else _sha1(data)
            headers = {"X-Repo-Commit": hub.commit(repo, branch), "ETag": f'"{etag}"'}
            if _large(name):
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            data = hub.altered.get(name, data)
            whole, status = len(data), 200
            if method == "GET" and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
                data, status = data[start:], 206
            stop = hub.cut.get(f"/{repo}/resolve/{branch}/{name}") if method == "GET" else None
            return self._send(status, data, headers, stop, method == "HEAD")

        def _json(self, value):
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _error(self, status, code):
            self._send(status, b"{}", {"X-Error-Code": code}, head=self.command == "HEAD")

        def _send(self, status, data, headers=(), stop=None, head=False):
            self.send_response(status)
            for key, value in {**dict(headers), "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if not head:
                self.wfile.write(data if stop is None else data[:stop])
            if stop is not None:
                self.close_connection = True

    return Handler
