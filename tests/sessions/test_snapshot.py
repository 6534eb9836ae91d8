"""Snapshots as bytes: what was packed comes back, and nothing else is taken for a snapshot."""

from dataclasses import replace

import numpy as np
import pytest

from elman.repository.network import InputTensor
from elman.sessions.snapshot import SnapshotFormat
from tests.reference import model

BLOCK = InputTensor("block", "static", (None, 2), np.dtype(np.float32), "test")
AGE = InputTensor("age", "static", (), np.dtype(np.int64), "test")


@pytest.fixture
def format() -> SnapshotFormat:
    """Of a model that takes a block of any length and a number, beside its data."""
    plain = model("vowels-gru")
    given = replace(plain.network, inputs=(*plain.network.inputs, BLOCK, AGE))
    return SnapshotFormat(replace(plain, network=given))


@pytest.mark.parametrize("length", [0, 1, 7])
def test_static_inputs_are_kept(format: SnapshotFormat, length: int) -> None:
    block = np.arange(2 * length, dtype=np.float32).reshape(length, 2)
    snapshot = replace(format.first, statics=(block, np.array(-3)))
    content = format.pack(snapshot)
    after = format.unpack(content)
    assert after.state == snapshot.state
    assert [one.tolist() for one in after.statics] == [block.tolist(), -3]
    assert [one.dtype for one in after.statics] == [BLOCK.dtype, AGE.dtype]
    for broken in (content[:-1], content + b"\0", content[: len(format.first.state)], b""):
        with pytest.raises(ValueError, match=r"snapshot|buffer"):
            format.unpack(broken)
