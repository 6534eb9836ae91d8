"""Clients and commands go through the proxy that the environment names, and reach this machine without it."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import httpx
import pytest

from elman.client import AsyncClient, Client, NotConnected, Retries
from elman.proxies import proxy_for
from tests.cli.command import elman
from tests.running import RunningServer

# No name server knows it: only a proxy can reach it.
AWAY = "http://elman.invalid:8000"
DEAD = "http://127.0.0.1:9"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@contextmanager
def proxies(**settings: str) -> Iterator[None]:
    """The environment with these proxies and no others."""
    others = {name: value for name, value in os.environ.items() if name.lower() not in NAMES}
    with mock.patch.dict(os.environ, {**others, **settings}, clear=True):
        yield


@pytest.mark.parametrize(
    ("url", "settings", "proxy"),
    [
        (AWAY, {}, None),
        (AWAY, {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        (AWAY, {"HTTP_PROXY": "proxy:3128"}, "http://proxy:3128"),
        (AWAY, {"https_proxy": "http://proxy:3128"}, None),
        (AWAY, {"all_proxy": "socks5://proxy:1080"}, "socks5://proxy:1080"),
        (AWAY, {"http_proxy": "http://proxy:3128", "no_proxy": "a.example, elman.invalid"}, None),
        (AWAY, {"http_proxy": "http://proxy:3128", "no_proxy": "*"}, None),
        ("https://elman.invalid", {"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        *(
            (f"http://{here}:8000", {"all_proxy": DEAD}, None)
            for here in ("localhost", "127.0.0.1", "[::1]", "127.0.0.2")
        ),
    ],
)
def test_the_environment_names_the_proxy(url: str, settings: dict[str, str], proxy: str | None) -> None:
    with proxies(**settings):
        assert proxy_for(url) == proxy


@contextmanager
def forward_proxy(server: RunningServer) -> Iterator[tuple[str, list[str]]]:
    """A proxy for http, which finds one server at every address. Gives its own, and the addresses it was asked for."""
    asked: list[str] = []

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = httpx.get(server.url + httpx.URL(self.path).path, timeout=60, trust_env=False)
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}", asked
        finally:
            proxy.shutdown()
            thread.join(30)


async def models_of(url: str) -> int:
    async with AsyncClient(url, timeout=20.0) as client:
        return len(await client.models())


@pytest.mark.slow
def test_both_clients_and_the_command_go_through_a_proxy(tmp_path: Path, server: RunningServer) -> None:
    with forward_proxy(server) as (address, asked), proxies(HTTP_PROXY=address):
        with Client(AWAY, timeout=20.0) as client:
            number = len(client.models())
        assert asyncio.run(models_of(AWAY)) == number > 0
        assert elman("show", "names-gru", "--url", AWAY, cwd=tmp_path).returncode == 0
        assert elman("models", "--url", AWAY, cwd=tmp_path).returncode == 0
    assert asked == [f"{AWAY}/v1/models"] * 2 + [f"{AWAY}/v1/models/names-gru", f"{AWAY}/v1/models"]


@pytest.mark.slow
def test_a_server_on_this_machine_is_reached_without_the_proxy(tmp_path: Path, server: RunningServer) -> None:
    with proxies(HTTP_PROXY=DEAD, ALL_PROXY=DEAD):
        with Client(server.url, timeout=20.0) as client, client.model("vowels-gru").stream() as stream:
            assert stream.send([[0.5] * 12]).output.shape == (9,)
        assert asyncio.run(models_of(server.url)) > 0
        assert elman("ps", "--url", server.url, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_proxy_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    way = f"{AWAY} through the proxy {DEAD}"
    with proxies(HTTP_PROXY=DEAD.replace("//", "//me:secret@")):
        with Client(AWAY, retries=Retries(1)) as client:
            for call in (client.models, client.model("names-gru").stream().__enter__):
                with pytest.raises(NotConnected, match=way) as raised:
                    call()
                assert "secret" not in str(raised.value)
        done = elman("models", "--url", AWAY, cwd=tmp_path)
    assert done.returncode == 3 and way in done.stderr and "secret" not in done.stderr


@pytest.mark.slow
def test_tls_to_a_server_without_it_is_told(tmp_path: Path, server: RunningServer) -> None:
    url, words = server.url.replace("http:", "https:"), "speaks no TLS: its address may begin with http://"
    with Client(url, retries=Retries(1)) as client:
        for call in (client.models, client.model("names-gru").stream().__enter__):
            with pytest.raises(NotConnected, match=words):
                call()
    done = elman("models", "--url", url, cwd=tmp_path)
    assert done.returncode == 3 and words in done.stderr
