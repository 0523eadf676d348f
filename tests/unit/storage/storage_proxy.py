"""An HTTP server before a store that meddles with chosen downloads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

# Gets a download's body and returns what is sent instead; None ends the connection in the middle of the body.
_LEFT_OUT = ("content-length", "connection", "transfer-encoding", "server", "date")
Meddle = Callable[[bytes], bytes | None]


@contextmanager
def meddling(store: str, ending: str, meddle: Meddle) -> Iterator[str]:
    """Runs the server and yields its URL.

    Args:
        store: The store's URL.
        ending: Downloads of paths that end so are meddled with.
        meddle: What is done with them.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = {name: text for name, text in self.headers.items() if name.lower() != "host"}
            answer = requests.request(
                self.command,
                store + self.path,
                headers=sent,
                data=self.rfile.read(length),
                timeout=10,
                allow_redirects=False,
            )
            body: bytes | None = answer.content
            whole = len(answer.content)
            if self.command == "GET" and self.path.partition("?")[0].endswith(ending):
                body = meddle(answer.content)
            self.send_response(answer.status_code)
            for name, text in answer.headers.items():
                # Without checksums, as from a server that keeps none.
                if name.lower() not in _LEFT_OUT and not name.lower().startswith("x-amz-checksum"):
                    self.send_header(name, text)
            head = self.command == "HEAD"
            size = answer.headers.get("Content-Length", "0") if head else str(whole if body is None else len(body))
            self.send_header("Content-Length", size)
            self.end_headers()
            if body is None:
                self.wfile.write(answer.content[: whole // 2])
                self.close_connection = True
            elif not head:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
