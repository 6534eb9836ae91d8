"""The floor under any Python server: reads the body and answers a constant, under uvicorn.

With BENCH_PROTOCOL set, uvicorn runs with Elman's HTTP protocol, which hands over whole requests: what is left of Elman
where nothing is asked of it.
"""

import os
import sys

import uvicorn

_ANSWER = b'{"output":[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only HTTP is served")
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    http = "auto"
    served = app
    if "BENCH_PROTOCOL" in os.environ:
        from elman.http.bodies import Bodies
        from elman.http.callers import ANYONE, Caller
        from elman.http.connections import Connections
        from elman.http.endpoint import Driver, Response, Route
        from elman.http.exchange import HTTPExchange
        from elman.http.protocol import HTTPProtocol as http

        class Constant:
            """Answers every POST with the same bytes, as an endpoint of Elman, with its engine and counters."""

            bodies = Bodies(2**26, 30.0)
            connections = Connections(10_000, 0)
            exchange = HTTPExchange
            num_accepted = 0

            def __init__(self):
                self.driver = Driver(self, self)

            def check_room(self, owner):
                pass

            def request_ended(self, route, status, code, model, seconds):
                pass

            def party(self, headers, address):
                return address

            def is_admin(self, address):
                return False

            def find(self, path, headers):
                return Route(self, {}, path, Caller(ANYONE, frozenset()), self.driver)

            def parse(self, request):
                return Response(_ANSWER)

            async def __call__(self, scope, receive, send):
                await app(scope, receive, send)

        served = Constant()
    # Without proxy_headers=False uvicorn puts a layer of its own around the application.
    options = {"access_log": False, "log_level": "warning", "lifespan": "off", "http": http, "proxy_headers": False}
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]), **options)
