"""A Loop or Scan that is a GRU or an LSTM is served as that node; one that only resembles it stays what it is."""

from pathlib import Path
from typing import Any

import cells
import graphs
import numpy as np
import pytest
from test_carried import RAGGED, carries_on, is_lifted
from test_refusals import load
from test_roles import holds, rows

pytestmark = pytest.mark.slow

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN

# By name: the operator that it is, what is carried, and one step.
WRITTEN: dict[str, tuple[str, tuple[str, ...], str]] = {
    # Keras with reset_after, as tf2onnx writes it: slices, and 1 - z
    "keras": (
        "gru",
        ("h",),
        """xk = MatMul(x, wide_w)  of_x = Add(xk, bias)  hk = MatMul(h, wide_r)  of_h = Add(hk, bias2)
        xz, xr, xn = Split <axis = 1> (of_x, thirds)
        s0 = Constant <value_ints = [0, 0]> ()  e0 = Constant <value_ints = [2147483647, N]> ()
        s1 = Constant <value_ints = [0, N]> ()  e1 = Constant <value_ints = [2147483647, N2]> ()
        s2 = Constant <value_ints = [0, N2]> ()  e2 = Constant <value_ints = [2147483647, N3]> ()
        axes = Constant <value_ints = [0, 1]> ()
        hz = Slice(of_h, s0, e0, axes)  hr = Slice(of_h, s1, e1, axes)  hn = Slice(of_h, s2, e2, axes)
        az = Add(xz, hz)  z = Sigmoid(az)  ar = Add(xr, hr)  r_gate = Sigmoid(ar)
        rn = Mul(r_gate, hn)  an = Add(xn, rn)  n = Tanh(an)
        rest = Sub(unit, z)  new = Mul(rest, n)  old = Mul(z, h)  h_next = Add(old, new)  y = Identity(h_next)""",
    ),
    # TensorFlow 1: products of joined inputs, the state reset before the product, both gates in one sigmoid
    "joined": (
        "gru",
        ("h",),
        """xh = Concat <axis = 1> (x, h)  ag = MatMul(xh, joined_gates)  ab = Add(ag, bias_gates)  gates = Sigmoid(ab)
        r_gate, z = Split <axis = -1> (gates, halves)  reset = Mul(h, r_gate)  xr = Concat <axis = 1> (x, reset)
        pn = MatMul(xr, joined_n)  n = Tanh(pn)
        rest = Sub(unit, z)  old = Mul(h, z)  new = Mul(n, rest)  h_next = Add(new, old)  y = Identity(h_next)""",
    ),
    # torch.nn.GRUCell by hand: Gemm, and 1 - z in place of z
    "scripted": (
        "gru",
        ("h",),
        """of_x = Gemm <transB = 1> (x, tall_w, bias)  of_h = Gemm <transB = 1> (h, tall_r, bias2)
        xr, xz, xn = Split <axis = 1> (of_x, thirds)  hr, hz, hn = Split <axis = 1> (of_h, thirds)
        ar = Add(xr, hr)  r_gate = Sigmoid(ar)  az = Add(xz, hz)  nz = Neg(az)  z = Sigmoid(nz)
        rn = Mul(r_gate, hn)  an = Add(xn, rn)  n = Tanh(an)
        away = Sub(n, h)  moved = Mul(z, away)  h_next = Add(h, moved)  y = Identity(h_next)""",
    ),
    "lstm": (
        "lstm",
        ("h", "c"),
        """of_x = Gemm <transB = 1> (x, high_w, bias4)  of_h = Gemm <transB = 1> (h, high_r)  gates = Add(of_x, of_h)
        i, f, g, o = Split <axis = 1> (gates, quarters)  si = Sigmoid(i)  sf = Sigmoid(f)  so = Sigmoid(o)  tg = Tanh(g)
        kept = Mul(sf, c)  new = Mul(si, tg)  c_next = Add(kept, new)  shown = Tanh(c_next)  h_next = Mul(so, shown)
        y = Identity(h_next)""",
    ),
    # c is carried before h
    "swapped": (
        "lstm",
        ("c", "h"),
        """xh = Concat <axis = 1> (x, h)  gates = MatMul(xh, joined_four)
        af, ao, ai, ag = Split <axis = 1> (gates, quarters)
        si = Sigmoid(ai)  sf = Sigmoid(af)  so = Sigmoid(ao)  tg = Tanh(ag)
        kept = Mul(c, sf)  new = Mul(tg, si)  c_next = Add(new, kept)  shown = Tanh(c_next)  h_next = Mul(shown, so)
        y = Identity(h_next)""",
    ),
}

# Near a cell, and none: the part that is changed, and what it becomes.
NO_CELL = {
    "z counts twice": ("keras", "old = Mul(z, h)", "zz = Mul(z, z)  old = Mul(zz, h)"),
    "half of the candidate": ("keras", "n = Tanh(an)", "nn = Tanh(an)  n = Mul(half, nn)"),
    "it gives another value": ("keras", "y = Identity(h_next)", "y = Mul(half, h_next)"),
    "a clipped state": ("keras", "h_next = Add(old, new)", "sum = Add(old, new)  h_next = Clip(sum, lowest, half)"),
    "the state reaches the candidate": ("joined", "n = Tanh(pn)", "pm = Add(pn, h)  n = Tanh(pm)"),
    "a peephole": ("lstm", "so = Sigmoid(o)", "oc = Add(o, c)  so = Sigmoid(oc)"),
    "coupled gates": ("lstm", "kept = Mul(sf, c)", "ff = Sub(unit, si)  kept = Mul(ff, c)"),
    "c is not squashed": ("lstm", "shown = Tanh(c_next)", "shown = Identity(c_next)"),
}


def weights() -> list[Any]:
    rng = np.random.default_rng(5)

    def random(name: str, *shape: int) -> Any:
        return graphs.constant(name, rng.standard_normal(shape) * 0.7, np.float32)

    joined = FEATURES + HIDDEN
    return [
        random("wide_w", FEATURES, 3 * HIDDEN),
        random("wide_r", HIDDEN, 3 * HIDDEN),
        random("tall_w", 3 * HIDDEN, FEATURES),
        random("tall_r", 3 * HIDDEN, HIDDEN),
        random("high_w", 4 * HIDDEN, FEATURES),
        random("high_r", 4 * HIDDEN, HIDDEN),
        random("joined_gates", joined, 2 * HIDDEN),
        random("joined_n", joined, HIDDEN),
        random("joined_four", joined, 4 * HIDDEN),
        random("bias", 3 * HIDDEN),
        random("bias2", 3 * HIDDEN),
        random("bias4", 4 * HIDDEN),
        random("bias_gates", 2 * HIDDEN),
        graphs.constant("halves", [HIDDEN] * 2),
        graphs.constant("thirds", [HIDDEN] * 3),
        graphs.constant("quarters", [HIDDEN] * 4),
        graphs.constant("unit", 1, np.float32),
        graphs.constant("half", 0.5, np.float32),
        graphs.constant("lowest", -0.5, np.float32),
    ]


def written(name: str, form: str, monkeypatch: pytest.MonkeyPatch, old: str = "", new: str = "") -> Any:
    _, states, step = WRITTEN[name]
    assert old in step
    step = step.replace(old, new) if old else step
    for word, size in (("N3", 3 * HIDDEN), ("N2", 2 * HIDDEN), ("N]", HIDDEN)):
        step = step.replace(word, f"{size}]" if word == "N]" else str(size))
    monkeypatch.setitem(cells.CELLS, name, (states, step))
    proto = cells.model(name, form, "learned" if name == "joined" else "zeros")
    proto.graph.initializer.extend(weights())
    return proto


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("keras", "counted"),
        ("keras", "scan"),
        ("joined", "loop"),
        ("scripted", "listed"),
        ("lstm", "scan-time-first"),
        ("lstm", "parted"),
        ("swapped", "while"),
    ],
)
def test_a_cell_written_out_is_the_node_that_it_is(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = written(name, form, monkeypatch)
    model = load(proto, tmp_path)
    assert model.network.cell == WRITTEN[name][0]
    is_lifted(model, len(WRITTEN[name][1]))
    holds(model, proto, rows(*RAGGED))
    carries_on(model, rows(*RAGGED))


@pytest.mark.parametrize("case", NO_CELL)
def test_what_only_resembles_a_cell_stays_as_it_is(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, old, new = NO_CELL[case]
    proto = written(name, "scan", monkeypatch, old, new)
    model = load(proto, tmp_path)
    assert model.network.cell == "custom"
    holds(model, proto, rows(*RAGGED))
