"""A hub on this machine, serving one folder as ``owner/name``; run as a script it loads from it in three ways.

python mirror.py FOLDER
"""

import hashlib
import http.server
import json
import logging
import os
import sys
import threading
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(folder: Path | None, status: int = 404, error_code: str = "RepoNotFound") -> http.server.ThreadingHTTPServer:
    """Start serving ``folder``; without one, answer every question with ``status``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if folder is None:
                return self.answer(status, b"", {"X-Error-Code": error_code} if error_code else {})
            path = self.path.split("?")[0]
            if path.startswith("/api/models/owner/name/tree/"):
                tree = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in folder.iterdir()
                ]
                return self.answer(200, json.dumps(tree if path.endswith(("/main", COMMIT)) else []).encode())
            if path == "/api/models/owner/name" or path.startswith("/api/models/owner/name/revision/"):
                files = [{"rfilename": f.name} for f in folder.iterdir()]
                return self.answer(200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": files}).encode())
            file = folder / self.path.rsplit("/", 1)[-1]
            if not self.path.startswith("/owner/name/resolve/") or not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.answer(200, content, {"ETag": tag, "X-Repo-Commit": COMMIT})

        do_HEAD = do_GET  # noqa: N815

        def answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def stop(server: http.server.ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def main() -> None:
    server = serve(Path(sys.argv[1]))
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    import okr  # only now: the hub's client reads its address when it is imported

    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", stream=sys.stdout)
    first = okr.load("owner/name", dtype="float32")
    print("mirror:", first.source, first.revision, type(first.model).__name__)
    stop(server)
    second = okr.load("owner/name", dtype="float32")
    print("cache:", second.source, second.revision, len(second.tokenizer))
    try:
        okr.load("owner/other")
    except okr.ModelLoadError as error:
        print("error:", error)


if __name__ == "__main__":
    main()
