"""What recurs in a Loop or a Scan has a state like any other cell; where that is not shown, it runs whole."""

from pathlib import Path
from typing import Any

import cells
import graphs
import numpy as np
import onnx
import pytest
from conftest import outputs, run, run_alone
from onnx import TensorProto
from test_refusals import load, refusal
from test_roles import holds, rows
from truth import Truth

from elman.engine.sequence import Sequence
from elman.repository.model import Model

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN
RAGGED = (5, 1, 30, 12, 5, 2)


def padded_rows(*lengths: int) -> list[Any]:
    """Rows of which every third ends in zeros, as padding does, and the second is nothing else."""
    data = rows(*lengths)
    data[1][:] = 0
    for row in data[::3]:
        row[len(row) // 2 :] = 0
    return data


def is_lifted(model: Model, states: int) -> None:
    proof = model.proof
    assert (proof.batched, proof.chunked, proof.streaming, proof.exact) == ("ragged", True, True, True), proof
    assert len(model.network.states) == states


def carries_on(model: Model, data: list[Any]) -> None:
    """Sessions that are cut anywhere, run among strangers, give the bits of each sequence alone."""
    expected = [run_alone(model, row, "steps") for row in data]
    found: list[list[Any]] = [[] for _ in data]
    states: list[bytes | None] = [None] * len(data)
    rng, cursors = np.random.default_rng(1), [0] * len(data)
    while live := [at for at, row in enumerate(data) if cursors[at] < len(row)]:
        pieces = [data[at][cursors[at] : cursors[at] + int(rng.integers(1, 9))] for at in live]
        asked = [Sequence(p, "steps", states[at], keep_state=True) for at, p in zip(live, pieces, strict=True)]
        for at, piece, sequence in zip(live, pieces, run(model, asked), strict=True):
            found[at].append(outputs(sequence))
            states[at] = sequence.final_state
            cursors[at] += len(piece)
    for one, whole in zip(found, expected, strict=True):
        assert np.concatenate(one).tobytes() == whole.tobytes()


# What is lifted


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells.CELLS)
@pytest.mark.parametrize("form", cells.FORMS)
def test_a_cell_in_a_loop_has_sessions_and_ragged_batches(tmp_path: Path, form: str, cell: str) -> None:
    first = "learned" if cell == "gru" else "zeros"
    proto = cells.model(cell, form, first)
    model = load(proto, tmp_path)
    is_lifted(model, len(cells.CELLS[cell][0]))
    data = padded_rows(*RAGGED)
    holds(model, proto, data)
    carries_on(model, data)


HEADS = {
    "last-step": "at = Constant <value_int = -1> ()  answer = Gather <axis = 1> (output, at)",
    "final-state": "answer = Identity(h_final)",
    "both": "answer = Identity(h_final)  steps_too = Tanh(output)",
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["scan", "counted", "listed"])
def test_heads_of_the_last_step_and_of_the_final_state(tmp_path: Path, form: str, head: str) -> None:
    named = ("steps_too", "answer") if head == "both" else ("answer",)
    proto = cells.model("gru", form, after=HEADS[head], outputs=named)
    model = load(proto, tmp_path)
    is_lifted(model, 1)
    holds(model, proto, rows(*RAGGED))
    carries_on(model, rows(*RAGGED))


def two_in_series(form: str) -> onnx.ModelProto:
    """One cell after another, the second over what the first gives, of the same width as the input."""
    proto = cells.model("lstm", form, outputs=("second_output",))
    second = onnx.helper.make_graph(cells.nodes("rnn", form, source="between"), "second", [], [], cells.tensors())
    onnx.compose.add_prefix_graph(second, "second_", inplace=True)
    proto.graph.node.extend([*cells.parse("between = MatMul(output, narrow)").node, *second.node])
    narrow = np.random.default_rng(3).standard_normal((HIDDEN, FEATURES))
    proto.graph.initializer.extend([*second.initializer, graphs.constant("narrow", narrow, np.float32)])
    return proto


@pytest.mark.slow
@pytest.mark.parametrize("form", ["scan", "counted", "listed", "while"])
def test_two_loops_in_series(tmp_path: Path, form: str) -> None:
    proto = two_in_series(form)
    model = load(proto, tmp_path)
    is_lifted(model, 3)
    holds(model, proto, rows(*RAGGED))
    carries_on(model, rows(*RAGGED))


def test_rows_may_lie_on_any_axis_of_what_is_carried(tmp_path: Path) -> None:
    """The state is (hidden, batch), and begins with other numbers than zeros."""
    proto = cells.model()
    text = """
        sizes = Shape(input)  rows = Slice(sizes, at0, at1)  steps1 = Slice(sizes, at1, at2)
        steps = Squeeze(steps1, at0)  tall = Unsqueeze(learned, at1)  two = Concat <axis = 0> (hidden, rows)
        first = Expand(tall, two)
        h_final, stacked = Loop <body = step
            (int64 t, bool go, float[n,b] h) => (bool on, float[n,b] h_next, float[n,b] y) {
            on = Identity(go)  x = Gather <axis = 1> (input, t)  xw = MatMul(x, w)  turned = Transpose(xw)
            hr = MatMul(r, h)  total = Add(turned, hr)  h_next = Tanh(total)  y = Identity(h_next)
        }> (steps, true, first)
        output = Transpose <perm = [2, 0, 1]> (stacked)"""
    del proto.graph.node[:]
    proto.graph.node.extend(cells.parse(text).node)
    model = load(proto, tmp_path)
    is_lifted(model, 1)
    assert (model.network.states[0].batch_axis, model.network.states[0].row_shape) == (1, (HIDDEN,))
    holds(model, proto, rows(*RAGGED))
    carries_on(model, rows(*RAGGED))


def test_a_state_that_the_graph_takes_is_held_where_a_row_ends(tmp_path: Path) -> None:
    state = graphs.value("h_in", ["batch", HIDDEN])
    proto = cells.model("rnn", "scan", "h_in", after="h_out = Identity(h_final)", extra=(state,))
    proto.graph.output.append(graphs.value("h_out", ["batch", HIDDEN]))
    model = load(proto, tmp_path)
    is_lifted(model, 1)
    assert model.network.states[0].input == "h_in"
    carries_on(model, rows(*RAGGED))


def test_a_batch_frozen_at_one_has_sessions(tmp_path: Path) -> None:
    after = "frozen = Constant <value_ints = [1, -1, 4]> ()  answer = Reshape(output, frozen)"
    proto = cells.model("lstm", "loop", dims=(1, "time"), after=after, outputs=("answer",))
    model = load(proto, tmp_path)
    assert (model.proof.batched, model.proof.streaming) == ("alone", True), model.proof
    holds(model, proto, rows(*RAGGED))
    carries_on(model, rows(*RAGGED))


# Which axis is time


@pytest.mark.parametrize("form", ["scan", "counted", "listed"])
def test_the_axis_that_a_loop_carries_a_state_along_is_time(tmp_path: Path, form: str) -> None:
    proto = cells.model("lstm", form, dims=(None, None))
    model = load(proto, tmp_path / "unnamed")
    is_lifted(model, 2)
    holds(model, proto, rows(*RAGGED))
    turn = "swapped = Transpose <perm = [1, 0, 2]> (input)"
    swapped = cells.model("lstm", form, source="swapped", dims=(None, None), before=turn)
    first = load(swapped, tmp_path / "swapped")
    is_lifted(first, 2)
    assert first.network.layout == "time_first"
    (row,) = rows(9)
    expected = Truth(swapped).answers({"input": row[:, None]})["output"][0]
    np.testing.assert_allclose(run_alone(first, row, "steps"), expected, atol=1e-6)


MAPS = {
    "loop": """
        nothing_left, output = Loop <body = each (int64 t, bool go, int64 i) => (bool on, int64 i_next, float[t,n] y) {
            on = Identity(go)  i_next = Add(i, one)  x = Gather <axis = 0> (input, t)  xw = MatMul(x, w)  y = Tanh(xw)
        }> (count, true, zero)""",
    "scan": """
        output = Scan <num_scan_inputs = 1, body = each (float[t,f] x) => (float[t,n] y) {
            xw = MatMul(x, w)  y = Tanh(xw)
        }> (input)""",
}


@pytest.mark.parametrize("form", MAPS)
def test_what_does_the_same_to_each_row_tells_no_axis(tmp_path: Path, form: str) -> None:
    proto = cells.model(dims=(None, None))
    del proto.graph.node[:]
    sizes = "sizes = Shape(input)  count1 = Slice(sizes, at0, at1)  count = Squeeze(count1, at0)"
    proto.graph.node.extend(cells.parse(f"{sizes} {MAPS[form]}").node)
    assert "which axis" in refusal(proto, tmp_path).reason


def test_a_window_in_a_loop_is_read_by_what_the_loop_goes_over(tmp_path: Path) -> None:
    proto = cells.model("gru", "counted", dims=(None, 10), before="ten = Constant <value_int = 10> ()")
    for node in proto.graph.node:
        if node.output[0] == "steps":
            node.CopyFrom(cells.parse("steps = Constant <value_int = 10> ()").node[0])
    model = load(proto, tmp_path)
    assert model.network.window == 10
    holds(model, proto, rows(10, 10, 10))


# What is not


def looped(
    body: str, *, before: str = "", trips: str = "steps", more: str = "", results: str = "h_final, stacked"
) -> Any:
    """A loop over the steps with the state h, whose body is as given."""
    proto = cells.model()
    text = f"""
        sizes = Shape(input)  rows = Slice(sizes, at0, at1)  steps1 = Slice(sizes, at1, at2)
        steps = Squeeze(steps1, at0)  shape = Concat <axis = 0> (rows, hidden)  first = ConstantOfShape(shape) {before}
        {results} = Loop <body = step (int64 t, bool go, float[b,n] h) => (bool on, float[b,n] h_next, float[b,n] y) {{
            {body}  {cells.CELLS["rnn"][1]}
        }}> ({trips}, true, first)
        output = Transpose <perm = [1, 0, 2]> (stacked) {more}"""
    del proto.graph.node[:]
    proto.graph.node.extend(cells.parse(text).node)
    proto.graph.node[[n.op_type for n in proto.graph.node].index("Loop")].name = "recur"
    return proto


GO = "on = Identity(go)"
PICK = "x = Gather <axis = 1> (input, t)"
PICK_ONE = "x0 = Gather <axis = 1> (input, t)"
NUMBERS = """missing = IsNaN(input)  real = Not(missing)  ones = Cast <to = 7> (real)
    least = ReduceMin <axes = [0, 2], keepdims = 0> (ones)  trips = ReduceSum <keepdims = 0> (least)"""
SMALL = "small = Constant <value_float = 0.01> ()"


def stops_at(limit: float) -> Any:
    """A loop that ends as soon as a number of its state is as large as a limit."""
    before = f"limit = Constant <value_float = {limit}> ()"
    return looped(f"{PICK}  size = ReduceMax <keepdims = 0> (h)  on = Less(size, limit)", before=before)


# With what the reason names: the loop, or a node in front of it or in its body.
WHOLE: dict[str, tuple[str, Any]] = {
    "backwards": (
        "recur",
        lambda: looped(f"{GO}  last = Sub(steps, one)  back = Sub(last, t)  x = Gather <axis = 1> (input, back)"),
    ),
    "the step before": ("recur", lambda: looped(f"{GO}  back = Sub(t, one)  x = Gather <axis = 1> (input, back)")),
    "the first step too": (
        "x1",
        lambda: looped(f"{GO}  {PICK_ONE}  x1 = Gather <axis = 1> (input, zero)  x = Add(x0, x1)"),
    ),
    "counting": (
        "recur",
        lambda: looped(
            f"{GO}  {PICK_ONE}  n = Cast <to = 1> (t)  less = Mul(n, small)  x = Add(x0, less)", before=SMALL
        ),
    ),
    "all steps": (
        "mean",
        lambda: looped(f"{GO}  {PICK_ONE}  mean = ReduceMean <axes = [1], keepdims = 0> (input)  x = Add(x0, mean)"),
    ),
    "the number of steps": (
        "Div",
        lambda: looped(f"{GO}  {PICK_ONE}  x = Div(x0, many)", before="many = Cast <to = 1> (steps)"),
    ),
    "stopping early": ("recur", lambda: stops_at(9.0)),
    "as many steps as are numbers": ("trips", lambda: looped(f"{GO} {PICK}", before=NUMBERS, trips="trips")),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_loop_that_is_not_shown_to_go_over_the_steps_runs_whole(tmp_path: Path, what: str) -> None:
    named, build = WHOLE[what]
    proto = build()
    model = load(proto, tmp_path)
    assert (model.proof.chunked, model.proof.streaming, model.network.ragged) == (False, False, False), model.proof
    assert not model.network.states
    assert named in str(model.proof.reason)
    data = rows(30, 12, 7)
    data[1][5:] = 0
    truth = Truth(proto)
    for row in data:
        expected = truth.answers({"input": row[None]})["output"][0]
        found = run_alone(model, row, "steps")
        np.testing.assert_allclose(found, expected[-len(found) :], atol=1e-5)


FEWER = "fewer = Sub(steps, one)"
FIVE = "five = Constant <value_int = 5> ()"
FEW = "three = Constant <value_int = 3> ()  few = Min(steps, three)"
REFUSED: dict[str, Any] = {
    "one step less": lambda: looped(f"{GO} {PICK}", before=FEWER, trips="fewer"),
    "five steps": lambda: looped(f"{GO} {PICK}", before=FIVE, trips="five"),
    "no more than three": lambda: looped(f"{GO} {PICK}", before=FEW, trips="few"),
    "the first step": lambda: looped(f"{GO}  x = Gather <axis = 1> (input, zero)"),
    "stopping early": lambda: stops_at(0.5),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_loop_that_leaves_steps_out_is_refused(tmp_path: Path, what: str) -> None:
    assert refusal(REFUSED[what](), tmp_path).remedy


def test_a_scan_that_goes_backwards_runs_whole(tmp_path: Path) -> None:
    proto = cells.model("rnn", "scan")
    (node,) = (node for node in proto.graph.node if node.op_type == "Scan")
    node.attribute.append(onnx.helper.make_attribute("scan_input_directions", [1]))
    model = load(proto, tmp_path)
    assert (model.proof.chunked, model.proof.streaming) == (False, False)
    assert "Scan" in str(model.proof.reason)
    holds(model, proto, rows(9, 9))


FIRSTS = {
    "of the first step": "x0 = Gather <axis = 1> (input, zero)  begin = MatMul(x0, w)",
    "of the number of steps": "sizes0 = Shape(input)  all = Slice(sizes0, at1, at2)  n0 = Cast <to = 1> (all)  "
    "rows0 = Slice(sizes0, at0, at1)  shape0 = Concat <axis = 0> (rows0, hidden)  begin = Expand(n0, shape0)",
    "of a static": "begin = MatMul(context, w)",
}


@pytest.mark.parametrize("what", FIRSTS)
@pytest.mark.parametrize("form", ["scan", "counted"])
def test_a_state_that_begins_with_what_is_read_runs_whole(tmp_path: Path, form: str, what: str) -> None:
    static = what == "of a static"
    extra = (graphs.value("context", ["batch", FEATURES]),) if static else ()
    proto = cells.model("rnn", form, "begin", before=FIRSTS[what], extra=extra)
    model = load(proto, tmp_path)
    assert (model.proof.chunked, model.proof.streaming) == (False, False), model.proof
    assert not model.network.states
    contexts = {"context": [row[0] for row in rows(1, 1, 1, seed=4)]} if static else {}
    holds(model, proto, rows(9, 4, 9), **contexts)


def test_a_state_that_all_rows_share_runs_whole(tmp_path: Path) -> None:
    """A count of the steps, as a float that the step depends on."""
    proto = cells.model()
    text = """
        sizes = Shape(input)  rows = Slice(sizes, at0, at1)  shape = Concat <axis = 0> (rows, hidden)
        first = ConstantOfShape(shape)  unit = Constant <value_float = 1.0> ()
        n_final, h_final, output = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            body = step (float n, float[b,n] h, float[b,f] x0) => (float n_next, float[b,n] h_next, float[b,n] y) {
                n_next = Add(n, unit)  x = Div(x0, n_next)
                xw = MatMul(x, w)  hr = MatMul(h, r)  total = Add(xw, hr)  h_next = Tanh(total)  y = Identity(h_next)
            }> (nothing, first, input)"""
    del proto.graph.node[:]
    proto.graph.node.extend(cells.parse(text).node)
    model = load(proto, tmp_path)
    assert (model.proof.chunked, model.proof.streaming, model.network.ragged) == (False, False, False), model.proof
    assert "nothing" in str(model.proof.reason)
    holds(model, proto, rows(9, 4, 9))


def test_a_mask_by_token_0_is_part_of_the_cell(tmp_path: Path) -> None:
    """What Keras writes for mask_zero: a step of token 0 leaves the state as it is."""
    rng = np.random.default_rng(2)
    proto = cells.model("masked", "counted", source="rows_of", before="rows_of = Gather(table, input)")
    table = rng.standard_normal((7, FEATURES)).astype(np.float32)
    table[0] = 0
    proto.graph.initializer.append(graphs.constant("table", table, np.float32))
    proto.graph.input[0].CopyFrom(graphs.value("input", ["batch", "time"], TensorProto.INT64))
    model = load(proto, tmp_path)
    is_lifted(model, 2)
    data = [rng.integers(0, 7, length) for length in RAGGED]
    data[2][10:] = 0
    truth = Truth(proto)
    for row in data:
        expected = truth.answers({"input": row[None]})["output"][0]
        np.testing.assert_allclose(run_alone(model, row, "steps"), expected, atol=1e-6)
    carries_on(model, data)
