"""The studies of sessions, autoregressive requests and int8: what sends, what counts and what writes the pages."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import autoregressive, protocols, report, session_footprint
from benchmarks.autoregressive import put, steps_of, without
from benchmarks.contenders import BARE
from benchmarks.live import create, standing, walk
from benchmarks.load import Plan, request
from benchmarks.measure import WrongAnswer, ask, running
from benchmarks.models import SHAPES, write_model
from benchmarks.pages import aim
from benchmarks.processes import Process, anonymous_bytes, cores, free_port
from benchmarks.profile import PARTS, profile
from benchmarks.quantised import FORMS, Kernel, put_forms
from benchmarks.serving import fetch_json, serving
from benchmarks.session_load import Walk, WalkPlan
from benchmarks.sessions import first_token
from benchmarks.streaming import StreamPlan, StreamReport, Streams
from benchmarks.workload import Format, reference, with_lengths
from elman.repository.spec import QUANTISED_KEY

pytestmark = pytest.mark.slow

SMALL = SHAPES["small"]
BODIES = with_lengths(SMALL, [1, 2, 3])
PREDICT = f"/v1/models/{SMALL.name}/predict"


@pytest.fixture(scope="module")
def rpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def server(folder: Path, rpc_port: int) -> Iterator[Process]:
    write_model(SMALL, folder / "models")
    write_model(protocols.MODEL, folder / "models")
    writer = Path(autoregressive.WRITER) / "1" / "model.onnx"
    put(autoregressive.STORE / writer, folder / "models" / writer, endless=True)
    with serving(folder / "models", folder / "store", folder / "log", store="memory", grpc_port=rpc_port) as process:
        yield process


def bodies(form: Format) -> list[bytes]:
    if form == "octet":
        return BODIES.bodies("octet")
    return [json.dumps(sequence.tolist()).encode() for sequence in BODIES.sequences]


def test_the_floor_under_elmans_protocol_answers(tmp_path: Path) -> None:
    with running(BARE, SMALL, write_model(SMALL, tmp_path), {"protocol": 1}, cores()[0], tmp_path) as process:
        bodies_sent = BARE.requests(BODIES, "json")
        assert [ask(process.port, one)[0] for one in bodies_sent] == [200] * len(bodies_sent)


def test_every_form_of_a_request_is_answered_rightly_and_counted(server: Process, folder: Path, rpc_port: int) -> None:
    sequences = with_lengths(protocols.MODEL, [5, 9]).sequences
    path = folder / "models" / protocols.MODEL.name / "1" / "model.onnx"
    protocols.check(server, rpc_port, sequences, reference(path, sequences))
    with pytest.raises(WrongAnswer):
        protocols.check(server, rpc_port, sequences, reference(path, sequences[::-1]))
    settings = protocols.Settings(seconds=0.5, connections=2)
    cells = dict(protocols.measured(server, rpc_port, sequences, settings, backwards=True))
    assert set(cells) == {*protocols.FORMS, *protocols.RPC_FORMS}
    assert all(cell["rate"] > 0 for cell in cells.values())


@pytest.mark.parametrize("form", ["octet", "json"])
def test_a_walk_carries_each_session_on_from_where_it_stands(server: Process, form: Format) -> None:
    create(server, SMALL, 4)
    sessions = standing(server.port)[-4:]
    assert [step for _, step in sessions] == [0, 0, 0, 0]
    plan = WalkPlan(server.port, bodies(form), BODIES.lengths, connections=3, limit=40)
    generator = Walk(replace(walk(plan, sessions), form=form))
    seen = asyncio.run(generator.run())
    assert seen.statuses == {"200": 40}
    assert [step for _, step in standing(server.port)[-4:]] == generator.steps
    assert sum(generator.steps) == seen.num_steps


@pytest.mark.parametrize("form", ["octet", "json"])
def test_a_walk_hands_each_token_on(server: Process, form: Format) -> None:
    token = first_token(server.port, SMALL, BODIES)
    plan = WalkPlan(server.port, bodies(form), BODIES.lengths, connections=2, limit=20)
    generator = Walk(replace(plan, form=form, way="tokens", paths=[PREDICT] * 3, starts=[1, 1, 1], token=token))
    assert asyncio.run(generator.run()).statuses == {"200": 20}
    for token, step in zip(generator.tokens, generator.steps, strict=True):
        asked = {"sequence": BODIES.sequences[0].tolist(), "state": token, "return_state": True}
        assert fetch_json(server.port, "POST", PREDICT, asked)["results"][0]["step"] == step + 1


def test_every_token_of_a_stream_is_heard(server: Process) -> None:
    asked = [{"condition": "Irish", "seed": seed, "max_steps": 5 + seed, "stream": True} for seed in range(6)]
    path = f"/v1/models/{autoregressive.WRITER}/generate"
    requests = [request(path, json.dumps(one).encode(), "application/json") for one in asked]
    seen = asyncio.run(Streams(StreamPlan(server.port, requests, [0] * 6, connections=3, limit=6)).run())
    assert isinstance(seen, StreamReport)
    assert seen.statuses == {"200": 6}
    assert seen.num_tokens == sum(5 + seed for seed in range(6))
    assert 0 < seen.first_p50 <= seen.first_p99 < seen.p99
    assert 0 < seen.gap_p50 <= seen.gap_p99 <= seen.gap_most


def test_a_stream_that_is_refused_counts_as_refused(server: Process) -> None:
    asked = request("/v1/models/nobody/generate", b'{"stream":true}', "application/json")
    seen = asyncio.run(Streams(StreamPlan(server.port, [asked], [0], connections=2, limit=4)).run())
    assert seen.statuses == {"404": 4}
    assert seen.num_lost == 0


def test_what_a_plan_is_run_by_goes_with_it() -> None:
    plans = [Plan(1, [b""], [0]), WalkPlan(1, [b""], [0]), StreamPlan(1, [b""], [0])]
    assert [type(plan.generator()).__name__ for plan in plans] == ["Generator", "Walk", "Streams"]


def test_leaving_each_step_out_in_turn() -> None:
    assert without([1, 2, 3]) == [[1, 2, 3], [2, 3], [1, 3], [1, 2]]
    for length in (2, 10):
        few, brute = steps_of(length)
        assert brute == sum(map(len, without(list(range(length)))))
        assert few == length + sum(range(length))


def test_sessions_are_made_and_stepped_without_http(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "models")
    seconds = asyncio.run(session_footprint._fill(tmp_path / "models", tmp_path / "store", SMALL, 40))
    assert min(seconds.values()) > 0
    assert session_footprint.file_bytes(tmp_path / "store") > 40 * 1024
    with serving(tmp_path / "models", tmp_path / "store", tmp_path / "log") as process:
        assert [step for _, step in standing(process.port)] == [1] * 40
        assert anonymous_bytes(process.pids()) > 2**20


def test_the_aim_of_a_session() -> None:
    assert aim(1000) == 1700


def test_each_form_of_a_model_runs_and_two_say_that_they_are_rounded(tmp_path: Path) -> None:
    paths = put_forms(write_model(SMALL, tmp_path / "from"), tmp_path / "models", SMALL.name)
    assert [path.parts[-3] for path in paths] == [f"{SMALL.name}{suffix}" for suffix in FORMS.values()]
    keys = [{entry.key for entry in onnx.load(path).metadata_props} for path in paths]
    assert [QUANTISED_KEY in found for found in keys] == [False, True, True]
    assert all(Kernel(path).steps_per_second(8, 0.01) > 0 for path in paths)


def test_chances_of_labels_are_those_of_their_scores() -> None:
    chances = autoregressive.probabilities(np.array([[0.0, np.log(3.0)]], np.float32))
    assert chances == pytest.approx(np.array([[0.25, 0.75]]), abs=1e-7)


def test_a_part_of_a_page_is_put_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\n")
    report.put(page, "one", "new \\1")
    assert page.read_text() == "before\n<!-- one -->\n\nnew \\1\n\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\n"
    with pytest.raises(ValueError, match="has no marks <!-- three -->"):
        report.put(page, "three", "new")


@pytest.mark.parametrize("mark", ["results", "sessions", "autoregressive", "client", "paths", "fairness", "protocols"])
def test_the_readme_has_a_place_for_each_study(mark: str, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(Path(report.__file__).with_name("README.md").read_text())
    report.put(page, mark, "measured")
    assert "measured" in page.read_text()


def test_the_profile_finds_the_time_of_every_part() -> None:
    found = profile(["small"], 0.1)["small"]
    assert all(set(found[form]) == set(PARTS) for form in ("json", "octet"))
    # The time of the HTTP server comes in ticks of 10 ms, and may be none.
    assert all(found[form][part] > 0 for form in ("json", "octet") for part in ("decoding", "scheduling", "kernel"))
    assert any("iterate" in str(one) for one in found["functions"])
