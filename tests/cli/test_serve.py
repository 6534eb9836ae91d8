"""`elman serve` and `elman demo`."""

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread

import httpx
import pytest
import typer

from elman.app import create_app
from elman.cli.jobs.listening import bind
from elman.cli.jobs.model_files import repository_for
from elman.repository.repository import scan
from elman.settings import Settings
from tests.certificates import Authority
from tests.cli.command import COMMAND, elman, elman_environment, elman_process
from tests.running import ROOT, STORE, running_server

DEMO = ROOT / "service" / "elman" / "demo"
MODEL = STORE / "sunspots-gru"


def check_says(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """The command failed with a single line."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_without_a_folder_it_says_what_to_do(tmp_path: Path) -> None:
    done = elman("serve", cwd=tmp_path)
    check_says(done, 2, "elman serve my-models", "elman demo")
    assert "store" not in done.stderr


def test_an_application_without_a_repository_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"Settings\(models=FOLDER\) or ELMAN_MODELS"):
        create_app(Settings())


def test_what_cannot_be_served_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    check_says(elman("serve", "nowhere", "--port", "0", cwd=tmp_path), 2, "'nowhere'")
    check_says(elman("serve", "file", cwd=tmp_path), 2, "'file'", ".onnx")
    check_says(elman("serve", "folder", "--name", "mine", cwd=tmp_path), 2, "--name", "folder of models")
    check_says(elman("serve", str(MODEL), "--name", "a/b", cwd=tmp_path), 2, "'a/b'")
    check_says(elman("serve", cwd=tmp_path, models="elsewhere"), 2, "'elsewhere'")


@pytest.mark.parametrize(
    "flags",
    [("--max-batch", "-1"), ("--max-body", "0"), ("--max-queue", "many"), ("--prot", "1"), ("--log-level", "loud")],
)
def test_a_wrong_option_is_named(tmp_path: Path, flags: tuple[str, str]) -> None:
    done = elman("serve", str(STORE), *flags, cwd=tmp_path)
    assert done.returncode == 2 and flags[0].split("-")[-1] in done.stderr


def test_a_wrong_setting_in_the_environment_is_named(tmp_path: Path) -> None:
    check_says(elman("serve", str(STORE), cwd=tmp_path, max_batch="many"), 2, "max_batch")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_keys": ","}, ("api_keys", "empty")),
        ({"api_keys": ""}, ("api_keys", "empty")),
        ({"api_keys": "alice,,bob"}, ("api_keys", "empty")),
        ({"cors_origins": "app.example.com"}, ("cors_origins", "'app.example.com'")),
        ({"cors_origins": "https://app.example.com/"}, ("cors_origins", "without a path")),
        ({"api_key_s": "alice"}, ("ELMAN_API_KEY_S", "ELMAN_API_KEYS")),
        ({"apikeys": "alice"}, ("ELMAN_APIKEYS", "ELMAN_API_KEYS")),
        ({"max_bodies": "1"}, ("ELMAN_MAX_BODIES", "ELMAN_MAX_BODY")),
        ({"zebra": "1"}, ("ELMAN_ZEBRA", "docs/settings.md")),
    ],
)
def test_settings_that_would_open_the_server_unnoticed_are_refused(
    tmp_path: Path, settings: dict[str, str], words: tuple[str, ...]
) -> None:
    done = elman("serve", str(STORE), "--port", "0", cwd=tmp_path, **settings)
    check_says(done, 2, *words)
    assert "alice" not in done.stderr and "Value error" not in done.stderr


@pytest.mark.parametrize("command", [("serve", str(STORE)), ("demo",)])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "elman.example"])
def test_a_public_address_without_keys_is_refused(tmp_path: Path, command: tuple[str, ...], host: str) -> None:
    done = elman(*command, "--host", host, "--port", "0", cwd=tmp_path)
    check_says(done, 2, "ELMAN_API_KEYS", "--allow-anyone")


def test_a_public_admin_port_without_keys_is_refused(tmp_path: Path) -> None:
    asked = ("serve", str(STORE), "--port", "0", "--admin-port", "0", "--admin-host", "0.0.0.0")
    check_says(elman(*asked, cwd=tmp_path), 2, "whoever reaches 0.0.0.0", "--allow-anyone")


@pytest.mark.parametrize("content", [None, b"", b'{"keys": [{"name": "alice"}]}'])
def test_keys_that_cannot_be_read_keep_the_server_from_starting(tmp_path: Path, content: bytes | None) -> None:
    """It would be open, or closed to everybody."""
    if content is not None:
        (tmp_path / "keys.json").write_bytes(content)
        (tmp_path / "keys.json").chmod(0o600)
    done = elman("serve", str(STORE), "--port", "0", "--api-keys-file", "keys.json", cwd=tmp_path)
    check_says(done, 2, "keys file keys.json", "not valid" if content is not None else "No such file")


@pytest.mark.parametrize(
    ("cert", "key", "settings", "words"),
    [
        (None, "server.key", {}, "need ssl_certfile"),
        ("nothing.pem", None, {}, "nothing.pem: No such file"),
        ("server.pem", "nothing.key", {}, "nothing.key: No such file"),
        ("server.pem", "other.key", {}, "KEY_VALUES_MISMATCH|key values mismatch"),
        ("server.pem", None, {}, "cannot be used"),
        ("server.key", "server.key", {}, "cannot be used"),
        ("server.pem", "locked.key", {}, "cannot be used"),
        ("server.pem", "locked.key", {"ssl_keyfile_password": "s3cret"}, "cannot be used"),
        ("server.pem", "server.key", {"ssl_ca_certs": "server.key"}, "cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_in_a_line(
    tmp_path: Path, cert: str | None, key: str | None, settings: dict[str, str], words: str
) -> None:
    authority = Authority(tmp_path)
    for name, password in (("server", b""), ("other", b""), ("locked", b"password")):
        authority.sign(name, password)
    flags = [*(("--ssl-certfile", cert) if cert else ()), *(("--ssl-keyfile", key) if key else ())]
    done = elman("serve", str(STORE), "--port", "0", *flags, cwd=tmp_path, **settings)
    check_says(done, 2)
    assert re.search(words, done.stderr) and "s3cret" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"api_keys": "alice"}, {"allow_anyone": "true"}])
def test_a_public_address_is_served_with_keys_or_when_that_is_wanted(
    small_store: Path, settings: dict[str, str]
) -> None:
    links = {"service_host": "10.0.0.1", "port_8000_tcp_addr": "10.0.0.1", "service_port_http": "8000"}
    with running_server(small_store, "--host", "0.0.0.0", **settings, **links) as one:
        headers = {"host": "models.example", "authorization": "Bearer alice"}
        assert one.client.get("/v1/models", headers=headers).status_code == 200


def test_several_workers_need_a_store_that_they_can_share(tmp_path: Path) -> None:
    asked = ("serve", str(STORE), "--workers", "2", "--store", "memory")
    check_says(elman(*asked, cwd=tmp_path), 2, "--store lmdb")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--port",), ("--port", "0", "--grpc-port")])
def test_a_port_that_is_taken_is_told_in_a_line_before_models_are_loaded(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        done = elman_process("serve", STORE, *flags, number, "--store-dir", tmp_path, cwd=tmp_path, workers=1)
    check_says(done, 3, f"cannot listen on 127.0.0.1, port {number}: address already in use", "choose another port")


def test_each_address_of_a_name_is_bound_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that this machine does not have, as of IPv6 where that is off, is left out."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    sockets = bind("elman.example", 0)
    hosts, ports = zip(*(one.getsockname() for one in sockets), strict=True)
    assert hosts == ("127.0.0.1", "127.0.0.2") and len(set(ports)) == 1
    found = found[:1]
    with pytest.raises(typer.Exit):
        bind("elman.example", 0)
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    ("path", "given", "name", "versions"),
    [
        ("tagger", None, "tagger", [1, 2]),
        ("tagger", "mine", "mine", [1, 2]),
        ("tagger/2", None, "tagger", [2]),
        ("tagger/2/model.onnx", None, "tagger", [2]),
        ("flat", None, "flat", [1]),
        ("tagger.onnx", None, "tagger", [1]),
        ("tagger.onnx", "mine", "mine", [1]),
        ("mounted", "mine", "mine", [1, 3]),
        ("triton", None, "named", [3]),
        ("triton", "mine", "mine", [3]),
        ("triton/3", None, "triton", [3]),
    ],
)
def test_a_single_model_gets_a_repository(
    tmp_path: Path, path: str, given: str | None, name: str, versions: list[int]
) -> None:
    mounted = ("mounted/inner/1/model.onnx", "mounted/inner/3/model.onnx", "triton/1/model.onnx", "triton/3/model.onnx")
    for file in ("tagger/1/model.onnx", "tagger/2/model.onnx", "flat/model.onnx", "tagger.onnx", *mounted):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    (tmp_path / "triton" / "config.pbtxt").write_text('name: "named"')
    with repository_for(tmp_path / path, given) as root:
        entries, refusals = scan(root)
        assert [(entry.name, entry.version) for entry in entries] == [(name, version) for version in versions]
        assert refusals == []
        folder = {"mounted": "mounted/inner"}.get(path, path.split("/")[0])
        wanted = [tmp_path / folder / str(version) / "model.onnx" for version in versions]
        if path in ("flat", "tagger.onnx"):
            wanted = [tmp_path / path / "model.onnx" if path == "flat" else tmp_path / path]
        assert [entry.path.read_text() for entry in entries] == [one.read_text() for one in wanted]
    assert not root.exists()


def test_a_folder_of_models_is_served_as_it_is(tmp_path: Path) -> None:
    with repository_for(tmp_path) as root:
        assert root == tmp_path
    assert tmp_path.exists()


@pytest.mark.slow
def test_a_model_file_is_served_and_a_refused_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "sun.onnx").write_bytes((MODEL / "1" / "model.onnx").read_bytes())
    with running_server(tmp_path / "sun.onnx", "--name", "spots", "--store", "memory") as one:
        assert one.predict("spots", sequence=[1.0, 2.0]).status_code == 200
        said = one.log.read_text()
        for line in (f"Elman running on {one.url} ", "Serving 1 model: spots\n", "Keys: none", "Sessions: in memory"):
            assert line in said
        assert "refused" not in said
    (tmp_path / "sun.onnx").write_bytes(b"no model")
    with running_server(tmp_path / "sun.onnx", "--store", "memory") as one:
        assert re.search("elman: sun version 1 is refused: .*not an ONNX file.* Copy or export", one.log.read_text())
        listed = elman("models", "--url", one.url, cwd=tmp_path)
        assert listed.returncode == 1 and re.search("refused sun version 1: .*not an ONNX file.* Copy", listed.stdout)
        assert "no model is served: all 1 in the repository are refused" in one.log.read_text()
        assert "refused" in one.client.get("/readyz").raise_for_status().json()["detail"]


# The demo


@contextmanager
def demo(folder: Path) -> Iterator[list[str]]:
    """What `elman demo` prints once it serves."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--port", "0"], cwd=folder, env=elman_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: Queue[str] = Queue()
    reader = Thread(target=lambda stream: [lines.put(line) for line in stream], args=(process.stdout,))
    reader.start()
    try:
        said: list[str] = []
        while "Ctrl-C" not in "".join(said):
            said.append(lines.get(timeout=60))
        yield said
    finally:
        process.terminate()
        code = process.wait(30)
        reader.join(60)
        process.stdout.close()
    assert code == 0


@pytest.mark.slow
def test_the_demo_serves_and_its_curl_line_is_answered(tmp_path: Path) -> None:
    with demo(tmp_path) as said:
        (curl,) = [line.strip() for line in said if "curl" in line]
        answer = subprocess.run([*curl_of(curl)], capture_output=True, check=True, timeout=30).stdout
        assert b'"label"' in answer
        address = curl.split("/v1/")[0].split()[-1]
        served = httpx.get(f"{address}/v1/models").json()
        assert {model["name"] for model in served["models"]} == {folder.name for folder in DEMO.iterdir()}
        assert served["refused"] == []
    assert list(tmp_path.iterdir()) == []


def curl_of(line: str) -> list[str]:
    """The curl line as a command of Python, since curl is not everywhere."""
    _, url, _, body = shlex.split(line)
    code = "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode())).read())"
    return [sys.executable, "-c", code, url, body]


def test_the_models_of_the_demo_are_those_of_the_store() -> None:
    files = [file.relative_to(DEMO) for file in DEMO.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"model.onnx", "examples.json"} and len(files) == 8
    for file in files:
        assert (DEMO / file).read_bytes() == (STORE / file).read_bytes(), file
