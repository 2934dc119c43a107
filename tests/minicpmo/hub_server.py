"""A hub on loopback with the answers of Hugging Face and of ModelScope, and their bad days."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import Factory, define

COMMIT = "4e1f0c5ad1"


@define
class FakeHub:
    """What the server holds, how it misbehaves, and what was asked of it."""

    files: dict[str, bytes]
    url: str = ""
    #: Path of a file -> bytes after which the connection is cut, one number for each request.
    cuts: dict[str, list[int]] = Factory(dict)
    #: Path of a file -> statuses that it gets first.
    statuses: dict[str, list[int]] = Factory(dict)
    #: Path of a file -> content that is sent in place of the listed one.
    forged: dict[str, bytes] = Factory(dict)
    status: int = 200
    knows_ranges: bool = True
    page_size: int = 1000
    ranges: list[tuple[str, str]] = Factory(list)
    tokens: list[str] = Factory(list)

    def hugging_face_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"type": "directory", "path": "assets", "size": 0}]
        for path, content in self.files.items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            if path.endswith((".safetensors", ".pt")):
                row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
                row["oid"] = "0" * 40  # of the pointer file
            else:
                blob = f"blob {len(content)}\0".encode() + content
                row["oid"] = hashlib.sha1(blob).hexdigest()
            rows.append(row)
        return rows

    def modelscope_rows(self) -> list[dict[str, Any]]:
        return [{"Type": "tree", "Path": "assets", "Size": 0}] + [
            {
                "Type": "blob",
                "Path": path,
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
            }
            for path, content in self.files.items()
        ]


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve *hub* on a free port of loopback; fills in its url."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # server_close waits for the last answers
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.hub.status != 200:
            self._send(self.hub.status, b"no")
        elif "/revision/" in parts.path:
            self._send_json({"sha": COMMIT})
        elif "/tree/" in parts.path:
            assert parts.path.endswith(f"/tree/{COMMIT}"), parts.path
            self._send_page(int(query.get("cursor", ["0"])[0]))
        elif parts.path.endswith("/repo/files"):
            self._send_json({"Code": 200, "Data": {"Files": self.hub.modelscope_rows()}})
        elif parts.path.endswith("/repo"):
            self._send_file(query["FilePath"][0])
        elif found := re.fullmatch(rf"/[^/]+/[^/]+/resolve/{COMMIT}/(.+)", unquote(parts.path)):
            self._send_file(found[1])
        else:
            self._send(404, b"no such page")

    def _send_page(self, start: int) -> None:
        rows = self.hub.hugging_face_rows()
        stop = start + self.hub.page_size
        path = urlsplit(self.path).path
        link = f'<{self.hub.url}{path}?recursive=true&cursor={stop}>; rel="next"'
        self._send_json(rows[start:stop], {"Link": link} if stop < len(rows) else {})

    def _send_file(self, path: str) -> None:
        asked = self.headers.get("Range", "")
        self.hub.ranges.append((path, asked))
        if waiting := self.hub.statuses.get(path):
            self._send(waiting.pop(0), b"later", {"Retry-After": "7"})
            return
        content = self.hub.forged.get(path, self.hub.files[path])
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if not self.hub.knows_ranges:
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.hub.cuts.get(path)
        self.wfile.write(content[start : start + cuts.pop(0)] if cuts else content[start:])
        self.close_connection = True

    def _send_json(self, document: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(document).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
