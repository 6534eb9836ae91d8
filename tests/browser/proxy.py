"""A small reverse proxy, as in front of a server that is published under a path."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

import httpx

# What holds for one connection, and is not passed on.
_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "te", "upgrade"}


@contextlib.contextmanager
def prefix_proxy(upstream: str, prefix: str, pause: float = 0.0) -> Iterator[str]:
    """Serve `upstream` under `prefix`, such as `/elman`, and nothing else, on a free port. Yields the page's URL.

    An answer of events is passed on an event at a time, with `pause` seconds before each.
    """
    client = httpx.Client(base_url=upstream, timeout=60.0)

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(prefix + "/"):
                self.send_error(404, "not under the prefix")
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            target = self.path.removeprefix(prefix)
            with client.stream(self.command, target, headers=headers, content=body) as response:
                self.send_response(response.status_code)
                for name, value in response.headers.items():
                    if name not in _HOP:
                        self.send_header(name, value)
                if "content-length" not in response.headers and response.status_code not in (204, 304):
                    self.send_header("Connection", "close")
                self.end_headers()
                self.pass_on(response)
            if "content-length" not in response.headers and response.status_code not in (204, 304):
                self.close_connection = True

        def pass_on(self, response: httpx.Response) -> None:
            events = response.headers.get("content-type", "").startswith("text/event-stream")
            for piece in response.iter_raw():
                for part in piece.split(b"\n\n") if events and pause else [piece]:
                    time.sleep(pause)
                    try:
                        self.wfile.write(part + b"\n\n" if events and pause and part else part)
                        self.wfile.flush()
                    except OSError:  # the browser has gone
                        return

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = forward

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
        client.close()
