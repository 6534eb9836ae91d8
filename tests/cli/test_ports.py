"""A server with TLS, and with an admin port of its own; with one process and with several."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from elman.client import Client, NotConnected
from elman.http.keys import KeyEntry, hash_of, written
from tests.certificates import Authority, Certificate
from tests.running import STORE, RunningServer, running_server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

STEP = {"sequence": [[0.5] * 12]}
PREDICT = "/v1/models/vowels-gru/predict"
LOAD = "/v2/repository/models/nobody/load"


@dataclass
class TwoPorts:
    """A server, and a client of its admin port. `trusted` is what a client needs to be let in."""

    server: RunningServer
    admin: httpx.Client
    certificate: Certificate
    trusted: ssl.SSLContext


def admin_url(server: RunningServer) -> str:
    found = re.search(r"Metrics and admin routes on (\S+)", server.log.read_text())
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single model, which is soon loaded."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "vowels-gru").symlink_to(STORE / "vowels-gru")
    return folder


@pytest.fixture(scope="module")
def one(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPorts]:
    """One process, with TLS, whose key has a password."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certificate = authority.sign("server", b"secret")
    flags = ("--admin-port", "0", "--grpc-port", "0", "--ssl-certfile", str(certificate.cert))
    keys = {"api_keys": "plain", "admin_api_keys": "root"}
    key = {"ssl_keyfile": certificate.key, "ssl_keyfile_password": "secret"}
    tls = certificate.trusted()
    with running_server(store, *flags, tls=tls, **keys, **key) as server:
        with httpx.Client(base_url=admin_url(server), verify=tls, timeout=60.0) as admin:
            yield TwoPorts(server, admin, certificate, tls)


@pytest.fixture(scope="module")
def several(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPorts]:
    """Two processes with a file of keys, whose clients need a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    certificate, visitor = authority.sign("server"), authority.sign("visitor")
    (folder / "keys.json").write_bytes(written([KeyEntry(name="a", hashes=(hash_of("root"),), roles=("admin",))]))
    (folder / "keys.json").chmod(0o600)
    settings = {"ssl_certfile": certificate.cert, "ssl_keyfile": certificate.key, "ssl_ca_certs": authority.path}
    tls = certificate.trusted()
    tls.load_cert_chain(visitor.cert, visitor.key)
    keys = {"api_keys": "plain", "api_keys_file": folder / "keys.json"}
    with running_server(store, "--workers", "2", "--admin-port", "0", tls=tls, **settings, **keys) as server:
        with httpx.Client(base_url=admin_url(server), verify=tls, timeout=60.0) as admin:
            yield TwoPorts(server, admin, certificate, tls)


def said(answer: httpx.Response) -> str:
    """The status of an answer, or the code of its error."""
    return "200" if answer.status_code == 200 else str(answer.json()["code"])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("kind", ["one", "several"])
def test_each_port_serves_its_own_routes(kind: str, request: pytest.FixtureRequest) -> None:
    both: TwoPorts = request.getfixturevalue(kind)
    public, admin = both.server.client, both.admin

    def answers(method: str, path: str, key: str) -> tuple[str, str]:
        body = STEP if path == PREDICT else None
        first, second = (port.request(method, path, json=body, headers=bearer(key)) for port in (public, admin))
        return said(first), said(second)

    assert answers("POST", PREDICT, "plain") == ("200", "unknown_route")
    assert answers("GET", "/v1/sessions", "plain") == ("200", "unknown_route")
    assert answers("GET", "/v1/models", "plain") == ("200", "200")
    assert answers("GET", "/livez", "nobody") == answers("GET", "/readyz", "nobody") == ("200", "200")
    assert answers("GET", "/metrics", "nobody") == ("unknown_route", "200")
    assert answers("GET", "/docs", "nobody") == ("200", "unknown_route")
    # Several workers take models from the folder alone.
    loaded = "unknown_model" if kind == "one" else "not_by_request"
    assert answers("POST", LOAD, "root") == ("unknown_route", loaded)
    assert answers("POST", LOAD, "plain") == ("unknown_route", "forbidden")
    assert answers("POST", LOAD, "nobody") == ("unknown_route", "unauthorized")
    assert "not served at this port" in public.post(LOAD, headers=bearer("root")).json()["detail"]
    # A head that is as before, on one connection.
    assert [admin.post(PREDICT, json=STEP, headers=bearer("plain")).status_code for _ in range(3)] == [404] * 3


def test_one_of_several_workers_says_what_all_serve(several: TwoPorts) -> None:
    said = several.server.log.read_text()
    assert said.count(f"Elman running on {several.server.url} ") == said.count("Serving 1 model: vowels-gru") == 1
    assert re.search(r"Keys: 1 of ELMAN_API_KEYS, those in \S+keys.json\n", said)
    assert "plain" not in said and re.search(r"Sessions: in \S+, with LMDB", said)


def test_the_client_predicts_and_streams_over_tls(one: TwoPorts) -> None:
    with Client(one.server.url, api_key="plain", verify=one.certificate.trusted()) as client:
        model, x = client.model("vowels-gru"), np.full((4_000, 12), 0.5, np.float32)
        with model.stream() as stream:
            assert stream.send(x[:3]).output.tolist() == model.predict(x[:3]).output.tolist()
        # Bodies and answers of many pieces.
        results = model.predict([x] * 10, returns="steps")
        assert [one.outputs.shape for one in results] == [(4_000, 9)] * 10
    with Client(one.server.url, api_key="plain", timeout=20.0) as stranger, pytest.raises(NotConnected):
        stranger.models()  # which does not trust the authority


def test_grpc_speaks_tls_too(one: TwoPorts) -> None:
    found = re.search(r"gRPC running on \S+, port (\d+)", one.server.log.read_text())
    assert found is not None
    address, trusted = f"127.0.0.1:{found[1]}", grpc.ssl_channel_credentials(one.certificate.authority.read_bytes())

    def is_live(channel: Any) -> bytes:
        with channel:
            live: bytes = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30)
        return live

    assert is_live(grpc.secure_channel(address, trusted)) == b"\x08\x01"
    with pytest.raises(grpc.RpcError):
        is_live(grpc.insecure_channel(address))


def test_what_speaks_no_tls_gets_nothing_and_harms_nobody(one: TwoPorts) -> None:
    for said in (b"GET /livez HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500, b""):
        with socket.create_connection(("127.0.0.1", one.server.port), timeout=20) as plain:
            plain.sendall(said)
            if not said:
                plain.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in plain.recv(1024)
    assert one.server.client.get("/livez").status_code == 200
    assert "Traceback" not in one.server.log.read_text()


def serial_of(server: RunningServer, tls: ssl.SSLContext) -> str:
    """The number of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return json.dumps((connection.getpeercert() or {})["serialNumber"])


def test_a_new_certificate_is_used_after_sighup_and_open_connections_go_on(one: TwoPorts) -> None:
    """A broken one changes nothing."""
    server, tls, files = one.server, one.certificate.trusted(), one.certificate
    before, key = serial_of(server, tls), files.key.read_bytes()
    with httpx.Client(base_url=server.url, verify=tls) as kept:
        assert kept.get("/livez").status_code == 200
        files.key.write_bytes(b"broken")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificate before stays in use" in server.log.read_text())
        assert serial_of(server, tls) == before
        files.key.write_bytes(key)
        # Another certificate of the same key.
        other = Authority(files.authority.parent, "authority").sign("server", b"secret")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "The certificate is read again" in server.log.read_text())
        assert serial_of(server, other.trusted()) != before
        assert kept.get("/livez").status_code == 200


def test_without_a_certificate_of_its_own_a_client_is_not_let_in(several: TwoPorts) -> None:
    for url in (several.server.url, str(several.admin.base_url)):
        with pytest.raises(httpx.TransportError), httpx.Client(verify=several.certificate.trusted()) as stranger:
            stranger.get(f"{url}/livez")


def test_a_worker_that_starts_while_the_file_of_keys_is_broken_has_the_keys_of_before(several: TwoPorts) -> None:
    server = several.server
    found = re.search(r"ELMAN_API_KEYS_FILE=([^\0]+)", Path(f"/proc/{server.process.pid}/environ").read_text())
    assert found is not None
    file = Path(found[1])
    good = file.read_bytes()
    file.write_bytes(b"{")

    def stale() -> list[float]:
        lines = re.findall(r'^elman_keys_stale\{worker="\d"\} (\S+)$', several.admin.get("/metrics").text, re.MULTILINE)
        return [float(one) for one in lines]

    def processes() -> set[int]:
        """Those that answer new connections. All of them take the key."""
        seen = set()
        for _ in range(8):
            # One that is killed may have taken the connection.
            with (
                contextlib.suppress(httpx.TransportError),
                httpx.Client(base_url=several.admin.base_url, verify=several.trusted) as fresh,
            ):
                seen.add(fresh.get("/v1/engine", headers=bearer("root")).raise_for_status().json()["process"])
        return seen

    wait_until(lambda: stale() == [1.0, 1.0])
    before = processes()
    while len(before) < 2:
        before |= processes()
    killed = before.pop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: bool(processes() - before - {killed}))
    file.write_bytes(good)
    wait_until(lambda: stale() == [0.0, 0.0])
