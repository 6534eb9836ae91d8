"""The exported file of a trained network, and what it makes of the held-out data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from elman.exporter import export
from elman.exporter.verifying import open_session
from elman.repository.spec import embedded_spec
from models.recurrent import Recurrent
from models.tasks import Split, Task


def export_model(model: Recurrent, task: Task, path: Path) -> None:
    """Write the ONNX file. A forward network takes and returns its state."""
    x = torch.zeros(1, 8, task.num_features) if task.num_features else torch.zeros(1, 8, dtype=torch.int64)
    state = () if model.shape.bidirectional else model.initial_state()
    learned = state if model.shape.initial_state == "learned" else ()
    export(
        model,
        path,
        example=(x, *state),
        task=task.kind,
        labels=task.labels,
        vocabulary=task.vocabulary,
        unknown=task.unknown,
        feature_names=task.feature_names,
        initial_state=learned,
    )


def answers(path: Path, split: Split) -> NDArray[np.int64]:
    """The label that the file gives at the last step of each sequence: (sequences,)."""
    return np.array([tags[-1] for tags in step_answers(path, split)], np.int64)


def step_answers(path: Path, split: Split) -> list[NDArray[np.int64]]:
    """The labels that the file gives at every step of each sequence, each (time,). Sequences are run one by one."""
    session = open_session(str(path))
    data, *states = session.get_inputs()
    # As in the server, states start from the stored initial states, or from zeros.
    starts = initial_values(path)
    feed = {
        state.name: starts.get(state.name, np.zeros((state.shape[0], 1, state.shape[2]), np.float32))
        for state in states
    }
    outputs = [session.run(["output"], {**feed, data.name: one[None]})[0] for one in split.sequences]
    return [np.asarray(output)[0].argmax(axis=1) for output in outputs]


def initial_values(path: Path) -> dict[str, NDArray[np.float32]]:
    """Learned initial states by the name of their input, each (layers, 1, hidden)."""
    model = onnx.load(path)
    spec = embedded_spec({entry.key: entry.value for entry in model.metadata_props})
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    states = (spec.state or ()) if spec else ()
    return {state.input: stored[state.initial] for state in states if state.initial}


def confusion_of(path: Path, split: Split, num_labels: int) -> NDArray[np.int64]:
    """How often each true label (row) got each answer (column), at the last step: (labels, labels)."""
    counts = np.zeros((num_labels, num_labels), np.int64)
    np.add.at(counts, (split.labels, answers(path, split)), 1)
    return counts


@dataclass(frozen=True)
class Measured:
    """What an exported file makes of the held-out data."""

    confusion: NDArray[np.int64]  # (labels, labels), true by answered, of each sequence's last step
    steps: NDArray[np.int64]  # (labels, labels), the same of every step
    accuracy: float
    """Of the answer at the last step of a sequence."""
    step_accuracy: float
    """Of the answers at all steps of all sequences."""
    majority_accuracy: float
    """Of the label that a sequence's steps were most often answered with."""


def measure(path: Path, task: Task) -> Measured:
    num_labels = len(task.labels)
    tags = step_answers(path, task.test)
    last, majority, steps = (np.zeros((num_labels, num_labels), np.int64) for _ in range(3))
    for label, answered in zip(task.test.labels, tags, strict=True):
        counts = np.bincount(answered, minlength=num_labels)  # (labels,)
        last[label, answered[-1]] += 1
        majority[label, counts.argmax()] += 1
        steps[label] += counts
    return Measured(last, steps, accuracy_of(last), accuracy_of(steps), accuracy_of(majority))


def accuracy_of(confusion: NDArray[np.int64]) -> float:
    return float(np.trace(confusion) / confusion.sum())
