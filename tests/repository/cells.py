"""Cells that were exported as a Loop or a Scan, in the forms in which exporters write them."""

import re
from typing import Any

import graphs
import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, parser

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN

# By name: what is carried, and how a step x (batch, features) makes y (batch, hidden) and what is carried on.
CELLS: dict[str, tuple[tuple[str, ...], str]] = {
    "rnn": (
        ("h",),
        "xw = MatMul(x, w)  hr = MatMul(h, r)  total = Add(xw, hr)  h_next = Tanh(total)  y = Identity(h_next)",
    ),
    "gru": (
        ("h",),
        """xu = MatMul(x, u)  hs = MatMul(h, s)  gate = Add(xu, hs)  z = Sigmoid(gate)
        xw = MatMul(x, w)  hr = MatMul(h, r)  total = Add(xw, hr)  n = Tanh(total)
        away = Sub(h, n)  kept = Mul(z, away)  h_next = Add(n, kept)  y = Identity(h_next)""",
    ),
    "lstm": (
        ("h", "c"),
        """xu = MatMul(x, u)  hs = MatMul(h, s)  gate = Add(xu, hs)  z = Sigmoid(gate)
        xw = MatMul(x, w)  hr = MatMul(h, r)  total = Add(xw, hr)  n = Tanh(total)
        kept = Mul(z, c)  c_next = Add(kept, n)  h_next = Tanh(c_next)  y = Mul(z, h_next)""",
    ),
    # A step of zeros is padding: it leaves the state as it is, and the answer the one before.
    "masked": (
        ("h", "last"),
        """size = Abs(x)  most = ReduceMax <axes = [1], keepdims = 1> (size)  real = Greater(most, nothing)
        xw = MatMul(x, w)  hr = MatMul(h, r)  total = Add(xw, hr)  new = Tanh(total)
        h_next = Where(real, new, h)  last_next = Where(real, new, last)  y = Identity(last_next)""",
    ),
}

_SIZES = """
    sizes = Shape(input)  rows = Slice(sizes, at0, at1)  steps1 = Slice(sizes, at1, at2)  steps = Squeeze(steps1, at0)
    shape = Concat <axis = 0> (rows, hidden)"""

# By name: how a cell goes over input (batch, time, features) and makes output (batch, time, hidden).
FORMS: dict[str, str] = {
    "scan": """
        FINALS, output = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            body = step (STATES, float[b,f] x) => (NEXTS, float[b,n] y) { CELL }> (FIRSTS, input)""",
    "scan-time-first": """
        moved = Transpose <perm = [1, 0, 2]> (input)
        FINALS, stacked = Scan <num_scan_inputs = 1,
            body = step (STATES, float[b,f] x) => (NEXTS, float[b,n] y) { CELL }> (FIRSTS, moved)
        output = Transpose <perm = [1, 0, 2]> (stacked)""",
    "loop": """
        FINALS, stacked = Loop <
            body = step (int64 t, bool go, STATES) => (bool on, NEXTS, float[b,n] y) {
                on = Identity(go)  x = Gather <axis = 1> (input, t)  CELL
            }> (steps, true, FIRSTS)
        output = Transpose <perm = [1, 0, 2]> (stacked)""",
    # tf2onnx: time first, a count and weights that are carried, and a condition that repeats the trip count
    "counted": """
        moved = Transpose <perm = [1, 0, 2]> (input)
        limit = Cast <to = 1> (steps)  begins = Less(nothing, limit)  both = And(begins, begins)
        steps32 = Cast <to = 6> (steps)
        i_final, n_final, r_final, FINALS, stacked = Loop <
            body = step (int64 t, bool go, int32 i, int32 count, float[n,n] r, STATES)
            => (bool on, int32 i_next, int32 count_next, float[n,n] r_next, NEXTS, float[b,n] y) {
                i_next = Add(i, one32)  x = Gather <axis = 0> (moved, i)  CELL
                after = Cast <to = 1> (i_next)  often = Cast <to = 1> (count)  less = Less(after, often)
                before = Cast <to = 1> (t)  less_too = Less(before, limit)  on = And(less_too, less)
                count_next = Identity(count)  r_next = Identity(r)
            }> (steps, both, zero32, steps32, weights, FIRSTS)
        output = Transpose <perm = [1, 0, 2]> (stacked)""",
    # The same with no trip count at all
    "while": """
        begins = Less(zero, steps)
        i_final, FINALS, stacked = Loop <
            body = step (int64 t, bool go, int64 i, STATES) => (bool on, int64 i_next, NEXTS, float[b,n] y) {
                i_next = Add(one, i)  x = Gather <axis = 1> (input, i)  CELL  on = Greater(steps, i_next)
            }> (endless, begins, zero, FIRSTS)
        output = Transpose <perm = [1, 0, 2]> (stacked)""",
    # torch.jit.script: x[:, t] and a list
    "listed": """
        empty = SequenceEmpty()
        FINALS, list = Loop <
            body = step (int64 t, bool go, STATES, seq(float[b,n]) made) => (bool on, NEXTS, seq(float[b,n]) more) {
                all = Slice(input, at0, ends, at0)  x = Gather <axis = 1> (all, t)  CELL
                more = SequenceInsert(made, y)  on = Identity(true)
            }> (steps, true, FIRSTS, empty)
        output = ConcatFromSequence <axis = 1, new_axis = 1> (list)""",
    # torch.jit.script: x.unbind(1), and torch.cat of (batch, 1, hidden)
    "parted": """
        empty = SequenceEmpty()
        parts = SplitToSequence <axis = 1, keepdims = 0> (input)  count = SequenceLength(parts)
        FINALS, list = Loop <
            body = step (int64 t, bool go, STATES, seq(float[b,t,n]) made) => (bool on, NEXTS, seq(float[b,t,n]) more) {
                x = SequenceAt(parts, t)  CELL
                wide = Unsqueeze(y, at1)  more = SequenceInsert(made, wide)  on = Identity(go)
            }> (count, true, FIRSTS, empty)
        output = ConcatFromSequence <axis = 1> (list)""",
    # A slice of one step in place of an index
    "sliced": """
        FINALS, stacked = Loop <
            body = step (int64 t, bool go, STATES) => (bool on, NEXTS, float[b,n] y) {
                on = Identity(go)  t1 = Unsqueeze(t, at0)  t2 = Add(t1, at1)
                wide = Slice(input, t1, t2, at1)  x = Squeeze(wide, at1)  CELL
            }> (steps, , FIRSTS)
        output = Transpose <perm = [1, 0, 2]> (stacked)""",
}


def tensors() -> list[TensorProto]:
    """The weights of every cell, and the numbers that the forms use."""
    rng = np.random.default_rng(0)
    found = [graphs.constant(name, rng.standard_normal((FEATURES, HIDDEN)), np.float32) for name in ("w", "u")]
    found += [graphs.constant(name, rng.standard_normal((HIDDEN, HIDDEN)) * 0.5, np.float32) for name in ("r", "s")]
    numbers = {"at0": [0], "at1": [1], "at2": [2], "hidden": [HIDDEN], "zero": 0, "one": 1, "ends": [2**31 - 1]}
    found += [graphs.constant(name, number) for name, number in numbers.items()]
    found += [graphs.constant("endless", 2**63 - 1), graphs.constant("nothing", 0, np.float32)]
    found += [graphs.constant("zero32", 0, np.int32), graphs.constant("one32", 1, np.int32)]
    found += [
        graphs.constant("true", True, np.bool_),
        graphs.constant("learned", np.linspace(-1, 1, HIDDEN), np.float32),
    ]
    return [*found, numpy_helper.from_array(numpy_helper.to_array(found[2]), "weights")]


def nodes(cell: str, form: str, first: str = "zeros", source: str = "input") -> list[NodeProto]:
    """From `source` to "output" with the tensors of `tensors`.

    What is carried begins with `first`: "zeros", "learned", or the name of a tensor.
    """
    states, step = CELLS[cell]
    begin = {
        "zeros": "first = ConstantOfShape(shape)",
        "learned": "first = Expand(learned, shape)",
    }.get(first, f"first = Identity({first})")
    text = FORMS[form]
    for word, parts in {
        "STATES": [f"float[b,n] {name}" for name in states],
        "NEXTS": [f"float[b,n] {name}_next" for name in states],
        "FINALS": [f"{name}_final" for name in states],
        "FIRSTS": ["first" for _ in states],
        "CELL": [step],
    }.items():
        text = text.replace(word, ", ".join(parts))
    return list(parse(re.sub(r"\binput\b", source, f"{_SIZES} {begin} {text}")).node)


def parse(text: str) -> onnx.GraphProto:
    """Nodes in the textual form of ONNX, as a graph."""
    return parser.parse_graph(f"graph (float[b,t,f] input) => (float[b,t,n] output) {{ {text} }}")


def model(
    cell: str = "rnn",
    form: str = "loop",
    first: str = "zeros",
    source: str = "input",
    *,
    dims: tuple[Any, ...] = ("batch", "time"),
    before: str = "",
    after: str = "",
    outputs: tuple[str, ...] = ("output",),
    extra: tuple[onnx.ValueInfoProto, ...] = (),
) -> ModelProto:
    """A cell from `source` to "output": nodes `before` make what `first` and `source` name, `after` read "output"."""
    made = [*parse(before).node, *nodes(cell, form, first, source), *parse(after).node]
    inputs = [graphs.value("input", [*dims, FEATURES]), *extra]
    return graphs.model(made, inputs, [graphs.value(name, None) for name in outputs], tensors())
