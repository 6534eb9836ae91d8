"""The truth that a served model is held to: ONNX Runtime on the author's file, one sequence a run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime

from elman.api.server import policy_of
from elman.engine.engine import ModelQueue
from elman.engine.sequence import Return, Sequence
from elman.repository.model import Model
from elman.settings import Settings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Given:
    """One sequence as a request gives it: its steps, those of further inputs by name, and its statics by name."""

    data: Array
    further: dict[str, Array] = field(default_factory=dict)
    statics: dict[str, Array] = field(default_factory=dict)

    def sequence(self, model: Model, returns: Return) -> Sequence:
        network = model.network
        return Sequence(
            self.data,
            returns,
            further=tuple(self.further[one.name] for one in network.further),
            statics=tuple(self.statics[one.name] for one in network.statics),
            heads=True,
        )


class Truth:
    """The author's file in ONNX Runtime. Its data and its sequences have the batch first, then the time."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.names = [value.name for value in self.session.get_outputs()]

    def answers(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))


def served(model: Model, given: list[Given], returns: Return, **policy: Any) -> list[dict[str, Array] | None]:
    """Every output that answers, by name, of sequences that run together; None for one that the graph failed on."""
    settings = Settings(**policy)
    queue = ModelQueue(model, policy_of(model, settings))
    sequences = [one.sequence(model, returns) for one in given]
    for sequence in sequences:
        queue.scheduler.add(sequence)
    while len(queue.scheduler):
        queue.iterate(0.0)
    return [None if sequence.error else _outputs(model, sequence) for sequence in sequences]


def _outputs(model: Model, sequence: Sequence) -> dict[str, Array]:
    blocks = [sequence.outputs, *sequence.head_outputs]
    return {one.name: np.concatenate(rows) for one, rows in zip(model.network.answering, blocks, strict=True)}
