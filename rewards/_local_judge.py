"""A judge for rehearsals: a server in this process that speaks like a vision-language model and has never looked at a picture."""

import json
import threading
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote


class _Judge(BaseHTTPRequestHandler):
    """The first part of the path has the answers to choose from."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        choices = json.loads(unquote(self.path.split("/")[1]))
        drawn = int.from_bytes(blake2b(asked, digest_size=8).digest(), "little")
        reply = json.dumps({"choices": [{"message": {"content": choices[drawn % len(choices)]}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


@cache
def _port() -> int:
    """Of the one server of this process; it ends with it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def url_of(choices: Sequence[str]) -> str:
    """Where a judge answers with one of these, drawn by the question and its pictures alone."""
    return f"http://127.0.0.1:{_port()}/{quote(json.dumps(list(choices)), safe='')}/v1"
