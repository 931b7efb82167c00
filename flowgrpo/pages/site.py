"""Pages that are made when they are asked for, by a small server for people on this machine."""

import errno
import ipaddress
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

from flowgrpo.core.errors import UserError

HOST = "127.0.0.1"
"""This machine only."""
TYPES = {".png": "image/png", ".webp": "image/webp"}
LARGEST = 2**16
"""Bytes of what a page may send."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Nothing from elsewhere is loaded, and no script but the page's own runs, whatever a prompt holds."""


@dataclass(frozen=True)
class Reply:
    body: bytes
    kind: str
    status: int = 200


def page(text: str) -> Reply:
    return Reply(text.encode(errors="replace"), "text/html; charset=utf-8")


def script(text: str) -> Reply:
    return Reply(text.encode(), "text/javascript; charset=utf-8")


def data(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), "application/json", status)


def picture(path: Path) -> Reply | None:
    """A picture or clip as `save_sample` writes them; None for anything else, and for a file that is gone."""
    return Reply(path.read_bytes(), TYPES[path.suffix]) if path.suffix in TYPES and path.is_file() else None


@dataclass(frozen=True)
class Request:
    """`path` begins with a slash and has no query; `sent` is the JSON that came with a POST, None for a GET."""

    path: str
    query: str = ""
    sent: dict[str, Any] | None = None


class Site:
    """Answers at `url` until it is closed. A UserError of `answer` is a reply that says so; None is a page that isn't there.

    Errors: UserError where the address can't be listened at.
    """

    def __init__(self, answer: Callable[[Request], Reply | None], host: str = HOST, port: int = 0) -> None:
        self._server = _listening(answer, host, port)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until an interrupt."""
        try:
            while self._thread.is_alive():
                self._thread.join(1.0)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return f"<a href='{self.url}' target=_blank>{self.url}</a>"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Callable[[Request], Reply | None], host: str, port: int) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family, self.answer = family, answer
        self.local = ipaddress.ip_address(address[0]).is_loopback
        self.names = {host, "localhost", "127.0.0.1", "::1"}
        super().__init__((host, port), _Handler)

    def knows(self, host: str) -> bool:
        """Whether a browser on this machine calls it so: a page from elsewhere can't borrow the address then."""
        return not self.local or urlsplit(f"//{host}").hostname in self.names

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a reader that left is none
            super().handle_error(request, client_address)


def _listening(answer: Callable[[Request], Reply | None], host: str, port: int) -> _Server:
    try:
        return _Server(answer, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use; choose another with --port, or 0 for any free one") from error
        raise UserError(f"can't listen at {host}, port {port} ({error.strerror}); choose another --host or --port") from error


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 20

    def do_GET(self) -> None:
        self._reply(None)

    def do_POST(self) -> None:
        """JSON only: a page from elsewhere can't send that without being asked."""
        size = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Type") != "application/json" or not size.isdigit() or int(size) > LARGEST:
            self._send(data({"error": f"send JSON of at most {LARGEST} bytes"}, 400))
            return
        try:
            sent = json.loads(self.rfile.read(int(size)))
        except ValueError:
            self._send(data({"error": "what was sent is no JSON"}, 400))
            return
        self._reply(sent if isinstance(sent, dict) else {})

    def _reply(self, sent: dict[str, Any] | None) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            self._send(data({"error": "this page is for people on this machine"}, 403))
            return
        where = urlsplit(self.path)
        try:
            found = self.server.answer(Request(where.path, where.query, sent))
        except UserError as error:
            found = data({"error": str(error)}, 400)
        except OSError as error:
            found = data({"error": f"a file can't be read or written ({error.strerror})"}, 500)
        self._send(found or data({"error": f"there is no {where.path}"}, 404))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**HEADERS, "Content-Type": reply.kind, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for other things."""
