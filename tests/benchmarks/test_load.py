"""The load generator, against a server of known behaviour in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
import pytest

from benchmarks.contenders import BARE, ELMAN, PEERS
from benchmarks.load import Plan, Report, request
from benchmarks.measure import generate, start_generator
from benchmarks.models import SHAPES, Shape, build
from benchmarks.processes import Process, cores, cpu_seconds, free_port
from benchmarks.workload import DISTRIBUTIONS, MAX_LENGTH, MEAN_LENGTH, draw, reference, with_lengths
from tests.running import num_connections
from tests.waiting import assert_undisturbed, wait_until

pytestmark = pytest.mark.slow

# Answers the length of the body as its own, in two pieces for an odd one, 503 for an empty one, after a path's wait.
_SERVER = """
import asyncio, sys
import uvicorn

async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.02)
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] != "/chunked":
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200 if body else 503, "headers": headers})
    half = len(body) // 2 if len(body) % 2 else 0
    await send({"type": "http.response.body", "body": body[:half], "more_body": True})
    if half:
        await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": body[half:]})

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off")
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("echo")
    script, port = folder / "echo.py", free_port()
    script.write_text(_SERVER)
    with Process([sys.executable, str(script), str(port)], port, None, folder / "log") as process:
        process.wait_until_ready()
        yield process


def ask(echo: Process, path: str, bodies: list[bytes], **fields: object) -> Report:
    requests = [request(path, body, "text/plain") for body in bodies]
    plan = Plan(echo.port, requests, [len(body) for body in bodies], pids=echo.pids(), **fields)  # type: ignore[arg-type]
    return generate(plan)


def test_a_closed_loop_counts_each_answer_once(echo: Process) -> None:
    report = ask(echo, "/", [b"ab" * 10, b"abc"], connections=4, limit=200)
    assert report.statuses == {"200": 200}
    assert report.num_done == 200
    assert report.num_steps == 100 * (20 + 3)
    assert report.num_lost == 0


def test_answers_in_pieces_and_in_chunks_are_read_to_their_end(echo: Process) -> None:
    report = ask(echo, "/chunked", [b"x" * 9, b"x" * 100_001], connections=3, limit=60)
    assert report.statuses == {"200": 60}


def test_refusals_are_counted_apart_and_do_no_useful_steps(echo: Process) -> None:
    report = ask(echo, "/", [b"", b"ab"], connections=1, limit=10)
    assert report.statuses == {"200": 5, "503": 5}
    assert report.num_steps == 5 * 2


def test_latency_covers_the_time_that_the_server_takes(echo: Process) -> None:
    def seconds() -> float:
        report = ask(echo, "/slow", [b"ab"], connections=2, seconds=0.4, warmup=0.1)
        assert 0.02 <= report.p50 <= report.p90 <= report.p99
        return report.seconds

    assert_undisturbed(seconds, lambda seconds: seconds == pytest.approx(0.4, abs=0.3))


def test_a_measurement_goes_on_until_it_has_the_answers_that_a_tail_needs(echo: Process) -> None:
    # Two connections have at most 20 answers in 0.2 s of a path that takes 20 ms, and 200 in ten times as long.
    report = ask(echo, "/slow", [b"ab"], connections=2, seconds=0.2, least=60, keep=True)
    assert 60 <= len(report.latencies) == report.num_done
    assert report.latencies == sorted(report.latencies)
    assert report.p99 == pytest.approx(report.latencies[int(0.99 * report.num_done)], abs=1e-6)
    fewer = ask(echo, "/slow", [b"ab"], connections=2, seconds=0.05, least=10_000)
    assert 0 < fewer.num_done <= 60
    assert fewer.latencies == []


def test_an_open_loop_offers_its_rate_whatever_the_answers_take(echo: Process) -> None:
    def number() -> int:
        return sum(ask(echo, "/slow", [b"ab"], rate=200.0, seconds=1.0).statuses.values())

    assert_undisturbed(number, lambda number: 120 <= number <= 290)


def test_a_server_that_dies_loses_what_it_was_asked(tmp_path: Path) -> None:
    script, port = tmp_path / "echo.py", free_port()
    script.write_text(_SERVER)
    with Process([sys.executable, str(script), str(port)], port, None, tmp_path / "log") as process:
        process.wait_until_ready()
        plan = Plan(port, [request("/slow", b"ab", "text/plain")], [1], connections=5, seconds=60.0)
        with start_generator(plan) as generator:
            wait_until(lambda: num_connections(port) == 5)
            process.stop()
            out, _ = generator.communicate(timeout=90)
    assert b'"num_lost": 5' in out


def test_processor_time_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    spin = "import time; until = time.process_time() + 0.5\nwhile time.process_time() < until: pass\ntime.sleep(30)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with Process([sys.executable, "-c", parent], 0, None, tmp_path / "log") as process:
        until = time.monotonic() + 60
        while cpu_seconds(process.pids()) < 0.3 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(process.pids()) == 2
        assert cpu_seconds(process.pids()) >= 0.3
    assert process.pids() == []


def test_a_process_and_its_threads_stay_on_their_core(tmp_path: Path) -> None:
    before, core = os.sched_getaffinity(0), cores()[1]
    waiting = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)"
    with Process([sys.executable, "-c", waiting], 0, core, tmp_path / "log") as process:
        threads = Path(f"/proc/{process.pid}/task")
        wait_until(lambda: len(list(threads.iterdir())) == 2)
        assert all(os.sched_getaffinity(int(one.name)) == {core} for one in threads.iterdir())
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_lengths_have_the_mean_and_the_range_that_the_page_says(name: str) -> None:
    lengths = DISTRIBUTIONS[name](np.random.default_rng(1), 20_000)
    assert 1 <= lengths.min() and lengths.max() <= MAX_LENGTH
    assert lengths.mean() == pytest.approx(MEAN_LENGTH, rel=0.05)


def test_a_workload_is_the_same_for_the_same_seed() -> None:
    first, again, other = (draw(SHAPES["small"], "lognormal", 20, seed) for seed in (3, 3, 4))
    assert first.bodies("json") == again.bodies("json") != other.bodies("json")


def test_models_are_ordinary_exports_that_answer_every_step(tmp_path: Path) -> None:
    shape = Shape("tiny", 3, 4, num_layers=2)
    path = tmp_path / "model.onnx"
    path.write_bytes(build(shape).SerializeToString())
    workload = draw(shape, "lognormal", 3)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for sequence, right in zip(workload.sequences, reference(path, workload.sequences), strict=True):
        (outputs,) = session.run(None, {"input": sequence[None]})
        assert outputs.shape == (1, len(sequence), shape.outputs)
        assert (outputs[0, -1] == right).all()


@pytest.mark.parametrize("contender", [ELMAN, BARE, *PEERS.values()], ids=lambda one: one.name)
def test_requests_are_whole_in_every_format_that_a_contender_takes(contender: object) -> None:
    workload = draw(SHAPES["small"], "fixed", 2)
    for form in contender.paths:  # type: ignore[attr-defined]
        for content in contender.requests(workload, form):  # type: ignore[attr-defined]
            head, body = content.split(b"\r\n\r\n", 1)
            assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


def test_a_tensor_in_json_says_its_length_and_shape() -> None:
    (content,) = PEERS["mlserver"].requests(with_lengths(SHAPES["small"], [5]), "json")
    (tensor,) = orjson.loads(content.split(b"\r\n\r\n", 1)[1])["inputs"]
    assert tensor["shape"] == [1, 5, 12] and len(tensor["data"]) == 60
    assert tensor["parameters"] == {"length": 5}


def test_octets_within_a_protocol_of_tensors_go_after_their_description() -> None:
    workload, pytriton = with_lengths(SHAPES["small"], [5]), PEERS["pytriton"]
    (content,) = pytriton.requests(workload, "octet")
    head, body = content.split(b"\r\n\r\n", 1)
    fields = dict(line.split(": ") for line in head.decode().split("\r\n")[1:])
    size = int(fields["Inference-Header-Content-Length"])
    (tensor,) = orjson.loads(body[:size])["inputs"]
    (octets,) = workload.bodies("octet")
    assert body[size + 4 :] == octets
    assert (
        tensor["parameters"]["binary_data_size"]
        == len(body) - size
        == 4 + int.from_bytes(body[size : size + 4], "little")
    )
    output = np.arange(9, dtype="<f4")
    described = {"name": "output", "shape": [1, 9], "parameters": {"binary_data_size": output.nbytes}}
    answer = orjson.dumps({"outputs": [described]}) + output.tobytes()
    assert (pytriton.read("octet", answer) == output).all()


def test_the_command_explains_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "--quick" in done.stdout
