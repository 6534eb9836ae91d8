"""Static inputs, further sequence inputs and heads over HTTP: each answer is ONNX Runtime's on that sequence alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import httpx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import Service
from onnx import TensorProto, helper
from test_refusals import load, refusal
from websockets.sync.client import connect

from elman.client import Batching, Client, RequestError
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.repository.calibration import Calibration
from tests.named import FEATURES, HIDDEN, SPEAKERS, Truth, letters, sequence, static, tagger, write_models
from tests.reference import Array


@pytest.fixture(scope="module")
def service(serve: Callable[[Path], Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return serve(write_models(tmp_path_factory.mktemp("named")))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(tagger())


def part(one: dict[str, Any], steps: slice) -> dict[str, Any]:
    return {name: values[steps] for name, values in one.items()}


def post(service: Service, path: str, body: object, code: int = 200) -> dict[str, Any]:
    answer = service.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()  # type: ignore[no-any-return]


def close(found: object, expected: Array) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), expected, atol=1e-5)


def test_the_card_names_every_input_and_output(service: Service) -> None:
    card = service.card("tagger")
    inputs, outputs = ({one["name"]: one for one in card[key]} for key in ("inputs", "outputs"))  # type: ignore[attr-defined]
    assert {name: one["role"] for name, one in inputs.items()} == {
        "input": "sequence", "gain": "sequence", "speaker": "static", "age": "static",
    }  # fmt: skip
    assert (inputs["age"]["shape"], inputs["speaker"]["dtype"]) == ([1], "int64")
    assert {name: one["role"] for name, one in outputs.items()} == {
        "output": "steps", "value": "steps", "best": "steps", "level": "final",
    }  # fmt: skip


@pytest.mark.parametrize("returns", ["final", "steps"])
def test_each_sequence_has_its_own_static_inputs(service: Service, truth: Truth, returns: str) -> None:
    sequences = [sequence(length, seed) for seed, length in enumerate((5, 1, 30, 12))]
    statics = [static(seed % SPEAKERS, 0.1 * seed) for seed in range(4)]
    heads = ["best", "value", "level"]
    body = {"sequences": sequences, "static": statics, "heads": heads, "return": returns}
    for result, one, given in zip(
        post(service, "models/tagger/predict", body)["results"], sequences, statics, strict=True
    ):
        expected = truth(one, given)
        assert list(result["heads"]) == heads
        if returns == "steps":
            close(result["outputs"], expected["output"])
            close(result["heads"]["value"], expected["value"])
            assert result["heads"]["best"] == [[best] for best in expected["best"].tolist()]
        else:
            close(result["output"], expected["output"][-1])
            close(result["heads"]["value"], expected["value"][-1])
            assert result["heads"]["best"] == [int(expected["best"][-1])]
        close(result["heads"]["level"], expected["level"])


def test_one_object_of_static_inputs_is_for_all(service: Service, truth: Truth) -> None:
    sequences = [sequence(4, 1), sequence(7, 2)]
    answer = post(service, "models/tagger/predict", {"sequences": sequences, "static": static(3, 0.5)})
    for result, one in zip(answer["results"], sequences, strict=True):
        close(result["output"], truth(one, static(3, 0.5))["output"][-1])
        assert "heads" not in result


def test_a_session_keeps_its_static_inputs(service: Service, truth: Truth) -> None:
    one, given = sequence(9), static(2, 0.3)
    expected = truth(one, given)
    session = post(service, "models/tagger/sessions", {"static": given}, 201)["id"]
    first = post(service, f"sessions/{session}/steps", {"sequence": part(one, slice(0, 4)), "heads": ["value"]})
    close(first["output"], expected["output"][3])
    close(first["heads"]["value"], expected["value"][3])
    fork = post(service, f"sessions/{session}/fork", None, 201)["id"]
    token = service.client.get(f"/v1/sessions/{session}/state").json()["state"]
    rest = {"sequence": part(one, slice(4, 9)), "return": "steps", "at": 4}
    for id in (session, fork):
        again = [post(service, f"sessions/{id}/steps", rest) for _ in range(2)]
        close(again[0]["outputs"], expected["output"][4:])
        assert (again[1]["replayed"], again[1]["outputs"]) == (True, again[0]["outputs"])
    other = {**rest, "sequence": {**rest["sequence"], "gain": [1.0] * 5}}  # type: ignore[dict-item]
    assert post(service, f"sessions/{session}/steps", other, 422)["code"] == "step_reused"
    from_token = {"sequence": part(one, slice(4, 9)), "state": token, "return": "steps"}
    close(post(service, "models/tagger/predict", from_token)["results"][0]["outputs"], expected["output"][4:])
    restored = post(service, "models/tagger/sessions", {"state": token}, 201)
    assert restored["step"] == 4
    close(post(service, f"sessions/{restored['id']}/steps", rest)["outputs"], expected["output"][4:])


def test_a_state_token_carries_the_static_inputs_of_a_predict(service: Service, truth: Truth) -> None:
    one, given = sequence(6), static(4, -0.2)
    body = {"sequence": part(one, slice(0, 2)), "static": given, "return_state": True}
    state = post(service, "models/tagger/predict", body)["results"][0]["state"]
    answer = post(service, "models/tagger/predict", {"sequence": part(one, slice(2, 6)), "state": state})
    close(answer["results"][0]["output"], truth(one, given)["output"][-1])


def test_a_stream_takes_them_in_its_query(service: Service, truth: Truth) -> None:
    one, given = sequence(5), static(1, 0.9)
    query = str(httpx.QueryParams({"static": json.dumps(given), "return": "steps"}))
    with connect(f"{service.url.replace('http', 'ws')}/v1/models/tagger/stream?{query}") as socket:
        socket.recv()
        socket.send(json.dumps({"sequence": part(one, slice(0, 2))}))
        first = json.loads(socket.recv())
        socket.send(json.dumps({"sequence": part(one, slice(2, 5)), "heads": ["level"]}))
        second = json.loads(socket.recv())
    expected = truth(one, given)
    close(first["outputs"] + second["outputs"], expected["output"])
    close(second["heads"]["level"], expected["level"])


def test_influence_leaves_a_step_of_every_input_out(service: Service, truth: Truth) -> None:
    one, given = sequence(20), static(0, 0.4)
    answer = post(service, "models/tagger/influence", {"sequence": one, "static": given})
    whole = truth(one, given)["output"][-1]
    expected = [
        np.linalg.norm(truth({name: v[:step] + v[step + 1 :] for name, v in one.items()}, given)["output"][-1] - whole)
        for step in range(20)
    ]
    np.testing.assert_allclose(answer["influence"], expected, atol=1e-5)


def test_generate_goes_on_with_the_static_inputs(service: Service) -> None:
    session = ort.InferenceSession(letters().SerializeToString(), providers=["CPUExecutionProvider"])
    found = set()
    for style in range(3):
        tokens = [1, 4]
        for _ in range(8):
            feeds = {"input": np.array([tokens]), "h": np.zeros((1, 1, HIDDEN), np.float32), "style": np.array([style])}
            tokens.append(int(session.run(["output"], feeds)[0][0, -1].argmax()))
        body = {"prompt": [1, 4], "max_steps": 8, "temperature": 0}
        whole = post(service, "models/letters/generate", {**body, "static": {"style": style}})
        assert whole["results"][0]["tokens"] == tokens[2:]
        half = {**body, "max_steps": 4, "static": {"style": style}, "return_state": True}
        state = post(service, "models/letters/generate", half)["results"][0]["state"]
        rest = post(service, "models/letters/generate", {"state": state, "max_steps": 4, "temperature": 0})
        assert rest["results"][0]["tokens"] == tokens[6:]
        found.add(tuple(tokens))
    assert len(found) > 1, "the style makes a difference"


GOOD = {"sequence": sequence(3), "static": static(0, 0.0)}


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({"static": None}, "invalid_field", "static"),
        ({"static": 5}, "invalid_field", "static"),
        ({"static": "old"}, "invalid_field", "static"),
        ({"static": {"speaker": 1}}, "invalid_field", "static"),
        ({"static": {**static(0, 0.0), "sex": 1}}, "invalid_field", "static.sex"),
        ({"static": {"speaker": SPEAKERS, "age": 0.0}}, "unknown_token", "static.speaker"),
        ({"static": {"speaker": -1, "age": 0.0}}, "unknown_token", "static.speaker"),
        ({"static": {"speaker": 0.5, "age": 0.0}}, "invalid_field", "static.speaker"),
        ({"static": {"speaker": 2**70, "age": 0.0}}, "invalid_field", "static.speaker"),
        ({"static": {"speaker": 0, "age": [0.0, 1.0]}}, "wrong_features", "static.age"),
        ({"static": {"speaker": 0, "age": 1e39}}, "not_finite", "static.age"),
        ({"static": [static(0, 0.0)]}, "invalid_field", "static"),
        ({"sequence": sequence(3)["input"]}, "invalid_field", "sequence"),
        ({"sequence": {"input": sequence(3)["input"]}}, "invalid_field", "sequence"),
        ({"sequence": {**sequence(3), "gain": [1.0, 2.0]}}, "invalid_field", "sequence.gain"),
        ({"sequence": {**sequence(3), "gain": [1.0, [2.0, 3.0], 1.0]}}, "wrong_features", "sequence.gain[1]"),
        ({"sequence": {**sequence(3), "gain": [[1.0], [], [1.0]]}}, "wrong_features", "sequence.gain[1]"),
        ({"sequence": {**sequence(3), "gain": []}}, "empty_sequence", "sequence.gain"),
        ({"sequence": {**sequence(3), "noise": [1.0]}}, "invalid_field", "sequence.noise"),
        ({"heads": ["volume"]}, "invalid_field", "heads[0]"),
        ({"heads": ["output"]}, "invalid_field", "heads[0]"),
    ],
)
def test_what_is_missing_or_wrong_is_named(service: Service, change: dict[str, Any], code: str, where: str) -> None:
    problem = post(service, "models/tagger/predict", GOOD | change, 422)
    assert (problem["code"], problem["where"]) == (code, where), problem
    post(service, "models/tagger/predict", GOOD)


@pytest.mark.parametrize("static", [5, "old", True, [], [5], [None], {"style": None}, {"style": [1]}])
def test_static_inputs_of_a_wrong_type_are_refused(service: Service, static: Any) -> None:
    """Beside a body of plain numbers, which is read another way, too."""
    for model, data in (("letters", [1, 4]), ("free", [[0.0] * FEATURES])):
        problem = post(service, f"models/{model}/predict", {"sequence": data, "static": static}, 422)
        assert problem["where"].startswith("static"), problem


def test_what_is_missing_is_named_in_words(service: Service) -> None:
    problem = post(service, "models/tagger/predict", GOOD | {"static": {"speaker": 1}}, 422)
    assert (problem["detail"], problem["where"]) == ("the field 'age' is missing", "static")
    problem = post(service, "models/tagger/predict", GOOD | {"static": [static(0, 0.0)]}, 422)
    assert (problem["detail"], problem["expected"]) == ("static is a list, for one sequence", "an object by name")


def test_static_inputs_are_not_given_twice_or_in_vain(service: Service) -> None:
    state = post(service, "models/tagger/predict", GOOD | {"return_state": True})["results"][0]["state"]
    assert post(service, "models/tagger/predict", GOOD | {"state": state}, 422)["where"] == "static"
    assert post(service, "models/tagger/sessions", {"state": state, "static": static(0, 0.0)}, 422)["where"] == "static"
    assert post(service, "models/tagger/sessions", {}, 422)["where"] == "static"
    assert (
        post(service, "models/tagger/sessions", {"static": {"speaker": 1, "age": "old"}}, 422)["where"] == "static.age"
    )


def test_octets_carry_one_input_and_one_output(service: Service) -> None:
    octets = {"content-type": "application/octet-stream"}
    body = np.zeros((2, FEATURES), np.float32).tobytes()
    refused = service.client.post("/v1/models/tagger/predict", content=body, headers=octets)
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert "'gain'" in refused.json()["detail"]
    accept = {"accept": "application/octet-stream"}
    answer = service.client.post("/v1/models/tagger/predict", json=GOOD, headers=accept)
    assert answer.status_code == 200
    refused = service.client.post("/v1/models/tagger/predict", json=GOOD | {"heads": ["value"]}, headers=accept)
    assert refused.status_code == 406
    session = post(service, "models/letters/sessions", {"static": {"style": 1}}, 201)["id"]
    steps = service.client.post(
        f"/v1/sessions/{session}/steps", content=np.array([1, 2], "<i4").tobytes(), headers=octets
    )
    assert steps.status_code == 200


def arrays(one: dict[str, Any]) -> dict[str, Array]:
    return {name: np.array(values, np.float32) for name, values in one.items()}


def test_the_client_sends_inputs_by_name(service: Service, truth: Truth) -> None:
    sequences, statics = [sequence(length, length) for length in (6, 2, 9)], [static(i, 0.5 * i) for i in range(3)]
    expected = [truth(one, given) for one, given in zip(sequences, statics, strict=True)]
    with Client(service.url, batching=Batching(sequences=2)) as client:
        model = client.model("tagger")
        assert [one["name"] for one in model.card().inputs if one["role"] == "static"] == ["speaker", "age"]
        results = model.predict([arrays(one) for one in sequences], static=statics, heads=["best", "level"])
        for result, right in zip(results, expected, strict=True):
            assert result.heads is not None and result.heads["best"].dtype.kind == "i"
            close(result.output, right["output"][-1])
            close(result.heads["level"], right["level"])
        with pytest.raises(RequestError) as caught:
            model.predict([arrays(one) for one in sequences], static=[*statics[:2], {"speaker": 0, "age": [1, 2]}])
        assert caught.value.where == "static[2].age"
        with pytest.raises(ValueError, match="2 objects of static inputs for 3"):
            model.predict([arrays(one) for one in sequences], static=statics[:2])
        given, steps = statics[1], arrays(sequences[2])
        right = truth(sequences[2], given)
        with model.session(static=given) as session:
            close(session.step({name: values[:3] for name, values in steps.items()}).output, right["output"][2])
            last = session.step({name: values[3:] for name, values in steps.items()}, heads=["value"])
            assert last.heads is not None
            close(last.heads["value"], right["value"][-1])
        with model.stream(static={"speaker": 1, "age": np.float32(0.5)}, heads=["level"]) as stream:
            close(stream.send(steps).heads["level"], right["level"])  # type: ignore[index]
        assert model.influence(steps, static=given).length == 9
        letters = client.model("letters")
        texts = {letters.generate("ab", max_steps=8, temperature=0, static={"style": i}).text for i in range(3)}
        assert len(texts) > 1
        # Once arrays of a shape were accepted, they are sent as bytes, but not where static inputs go along.
        plain = np.array([1, 4])
        first, again = (letters.predict(plain, static={"style": 2}) for _ in range(2))
        close(again.output, first.output)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_large_body_gives_the_same_answer(service: Service) -> None:
    """It is decoded by the codec pool, which gets the classes of the inputs anew."""
    one = sequence(40_000)
    body = {"sequence": one, "static": static(1, 0.2), "heads": ["value"], "return": "steps"}
    assert len(json.dumps(body)) > 1 << 20
    whole = post(service, "models/tagger/predict", body)["results"][0]
    short = post(service, "models/tagger/predict", body | {"sequence": part(one, slice(0, 50))})["results"][0]
    assert whole["outputs"][:50] == short["outputs"]
    assert whole["heads"]["value"][:50] == short["heads"]["value"]


def attending(tokens: int = 7) -> onnx.ModelProto:
    """One step of a decoder: a token, a state, and `encoded`, the outputs of an encoder, which the state attends to."""
    rng = np.random.default_rng(4)
    shapes = {"table": (tokens, HIDDEN), "w": (2 * HIDDEN, HIDDEN), "r": (HIDDEN, HIDDEN), "head": (HIDDEN, tokens)}
    tensors = [graphs.constant(name, rng.standard_normal(shape) * 0.7, np.float32) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["row"]),
        helper.make_node("Unsqueeze", ["h", "two"], ["column"]),
        helper.make_node("MatMul", ["encoded", "column"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=1),
        helper.make_node("Mul", ["encoded", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "one"], ["context"], keepdims=0),
        helper.make_node("Concat", ["row", "context"], ["joined"], axis=1),
        helper.make_node("MatMul", ["joined", "w"], ["read"]),
        helper.make_node("MatMul", ["h", "r"], ["kept"]),
        helper.make_node("Add", ["read", "kept"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("MatMul", ["h_out", "head"], ["logits"]),
        helper.make_node("Squeeze", ["weights", "two"], ["attention"]),
    ]
    inputs = [
        graphs.value("token", ["batch"], TensorProto.INT64),
        graphs.value("encoded", ["batch", "source", HIDDEN]),
        graphs.value("h", ["batch", HIDDEN]),
    ]
    outputs = [graphs.value("logits", ["batch", tokens]), graphs.value("h_out", ["batch", HIDDEN])]
    return graphs.model(nodes, inputs, outputs, [*tensors, graphs.constant("one", [1]), graphs.constant("two", [2])])


def attended(tokens: list[int], encoded: Array) -> Array:
    session = ort.InferenceSession(attending().SerializeToString(), providers=["CPUExecutionProvider"])
    h, rows = np.zeros((1, HIDDEN), np.float32), []
    for token in tokens:
        row, h = session.run(["logits", "h_out"], {"token": np.array([token]), "encoded": encoded[None], "h": h})
        rows.append(row[0])
    return np.array(rows)


@pytest.fixture(scope="module")
def decoding(serve: Callable[[Path], Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    root = tmp_path_factory.mktemp("decoding")
    folder = root / "decoder" / "1"
    folder.mkdir(parents=True)
    onnx.save(attending(), folder / "model.onnx")
    (folder / "model.json").write_text(json.dumps({"task": "generation", "decoder": {"kind": "tokens"}}))
    return serve(root)


@pytest.mark.slow
def test_a_decoder_attends_to_the_block_of_its_session(decoding: Service) -> None:
    service = decoding
    inputs = {one["name"]: (one["role"], one["shape"]) for one in service.card("decoder")["inputs"]}  # type: ignore[attr-defined]
    assert inputs["encoded"] == ("static", [None, HIDDEN])
    rng = np.random.default_rng(5)
    blocks = [rng.standard_normal((length, HIDDEN)).astype(np.float32) for length in (9, 1, 4, 9)]
    tokens = [[1, 2, 3, 0], [5], [6, 6], [3, 1, 4]]
    body = {"sequences": tokens, "static": [{"encoded": block.tolist()} for block in blocks], "return": "steps"}
    results = post(service, "models/decoder/predict", body)["results"]
    for result, row, block in zip(results, tokens, blocks, strict=True):
        close(result["outputs"], attended(row, block))
    for row, block in zip(tokens, blocks, strict=True):
        session = post(service, "models/decoder/sessions", {"static": {"encoded": block.tolist()}}, 201)["id"]
        found = [post(service, f"sessions/{session}/steps", {"sequence": [token]})["output"] for token in row]
        close(found, attended(row, block))
        written = [1]
        for _ in range(5):
            written.append(int(attended(written, block)[-1].argmax()))
        greedy = {"prompt": [1], "max_steps": 5, "temperature": 0, "static": {"encoded": block.tolist()}}
        assert post(service, "models/decoder/generate", greedy)["results"][0]["tokens"] == written[1:]
    wrong = {"sequence": [1], "static": {"encoded": [[0.0] * HIDDEN, [0.0]]}}
    assert post(service, "models/decoder/predict", wrong, 422)["where"] == "static.encoded[1]"
    empty = {"sequence": [1], "static": {"encoded": []}}
    assert post(service, "models/decoder/predict", empty, 422)["where"] == "static.encoded"


@pytest.mark.slow
def test_a_large_block_is_bounded_for_all_its_rows_together(decoding: Service) -> None:
    """A run has a copy of the block for each row, and so has an answer with states."""
    steps = 60_000
    block = {"encoded": [[0.0] * HIDDEN] * steps}
    post(decoding, "models/decoder/predict", {"sequence": [1], "static": block})
    session = post(decoding, "models/decoder/sessions", {"static": block}, 201)["id"]
    assert post(decoding, f"sessions/{session}/steps", {"sequence": [1]})["step"] == 1
    state = decoding.client.get(f"/v1/sessions/{session}/state").json()["state"]
    too_many = 20_000_000 // (steps * HIDDEN) + 1
    many = {"sequences": [[1]] * too_many, "return_state": True}
    drawn = {"prompt": [1], "max_steps": 2, "samples": too_many}
    for origin in ({"static": block}, {"state": state}):
        refused = post(decoding, "models/decoder/predict", many | origin, 413)
        assert (refused["code"], refused["where"]) == ("too_long", "sequences")
        refused = post(decoding, "models/decoder/generate", drawn | origin, 413)
        assert (refused["code"], refused["where"]) == ("too_long", "samples")


def test_a_large_block_is_no_light_work(tmp_path: Path) -> None:
    """The event loop runs light sequences itself, and would stand still."""
    model = load(attending(), tmp_path, {"task": "generation", "decoder": {"kind": "tokens"}})
    queue = ModelQueue(model, Policy(cost=Calibration(run=1e-7, row=1e-7, step=1e-7, row_step=1e-7)))
    for rows, light in ((9, True), (100_000, False)):
        block = np.zeros((rows, HIDDEN), np.float32)
        assert queue.is_light([Sequence(np.array([1]), statics=(block,))]) is light


@pytest.mark.parametrize("name", ['my"age', "my\\age", "my\nage"])
def test_an_input_that_no_request_can_name_is_refused(tmp_path: Path, name: str) -> None:
    refused = refusal(renamed(tagger(), "age", name), tmp_path)
    assert repr(name) in refused.reason
    alone = load(renamed(graphs.tagger(), "input", name), tmp_path)
    assert alone.network.inputs[0].name == name


def renamed(proto: onnx.ModelProto, name: str, other: str) -> onnx.ModelProto:
    """A graph with another name of an input."""
    for node in proto.graph.node:
        node.input[:] = [other if one == name else one for one in node.input]
    for value in proto.graph.input:
        value.name = other if value.name == name else value.name
    return proto


ODD = {"age": "x:0", "speaker": "class", "gain": "a b", "value": "\u00e9.1", "best": "Level"}


@pytest.mark.slow
def test_odd_names_are_names(serve: Callable[[Path], Service], tmp_path: Path, truth: Truth) -> None:
    """Two that differ in case alone are two."""
    proto = tagger()
    for name, other in ODD.items():
        renamed(proto, name, other)
        for node in proto.graph.node:
            node.output[:] = [other if one == name else one for one in node.output]
        for value in proto.graph.output:
            value.name = other if value.name == name else value.name
    folder = tmp_path / "odd" / "1"
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx")
    one, given = sequence(3), static(1, 0.5)
    body = {
        "sequence": {"input": one["input"], "a b": one["gain"]},
        "static": {ODD[name]: value for name, value in given.items()},
        "heads": ["\u00e9.1", "Level", "level"],
        "return": "steps",
    }
    result = post(serve(tmp_path), "models/odd/predict", body)["results"][0]
    expected = truth(one, given)
    close(result["outputs"], expected["output"])
    close(result["heads"]["\u00e9.1"], expected["value"])
    close(result["heads"]["level"], expected["level"])
    assert np.ravel(result["heads"]["Level"]).tolist() == expected["best"].tolist()
