"""What real exporters write is served to ONNX Runtime's own answers on each sequence alone, or refused for a reason."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from elman.errors import ModelRefused
from elman.repository.model_file import load_model
from tests.exporters.conftest import CHOSEN, Exported
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.exporters

Array = np.ndarray[Any, Any]
Row = dict[str, Array]

CELLS = {
    "gru_steps": "gru",
    "gru_final": "gru",
    "gru_reset_before": "gru",
    "gru_window": "gru",
    "bidirectional_gru": "gru",
}
"""The cell of files in which it is written out as a loop."""

REFUSED = {("keras", "time_distributed"): ("probably frozen", "TimeDistributed")}
"""Why a file is refused, and what its remedy names. Every other is served with nothing configured."""

CASES = [
    (framework, name)
    for framework, names in {
        "keras": "lstm_steps lstm_final lstm_stack lstm_window lstm_unrolled lstm_backwards gru_steps gru_final "
        "gru_reset_before gru_window rnn_steps rnn_window bidirectional_steps bidirectional_final bidirectional_gru "
        "time_distributed masking masking_window mask_zero embedding embedding_of_floats flatten_head convolution "
        "mean_pooled self_attention autoencoder two_inputs two_sequences two_heads starts_from_static",
        "sb3": "discrete_action discrete_logits box_action box_everything discrete_action_free discrete_logits_free "
        "box_action_free box_everything_free",
        "darts": "rnn_lstm rnn_gru rnn_rnn rnn_covariates rnn_gaussian block_lstm block_rnn block_covariates",
        "rsl": "lstm_1 lstm_2_normalised gru_1 gru_2_normalised",
        "skorch": "packed packed_unsorted packed_bidirectional skorch skorch_dynamo gathered",
        "mlagents": "continuous discrete branches two_sensors hybrid",
    }.items()
    if framework in CHOSEN
    for name in names.split()
]


@dataclass(frozen=True)
class Shelf:
    """A framework's files, the server that serves them, and why those that it does not serve are refused."""

    folder: Path
    server: RunningServer
    refused: dict[str, ModelRefused]


@pytest.fixture(scope="module")
def shelves(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shelf]]:
    with contextlib.ExitStack() as stack:
        made = {}
        for framework in dict(CASES):
            folder, root, refused = exported(framework), tmp_path_factory.mktemp(framework), {}
            for path in sorted(folder.glob("*/1/model.onnx")):
                name = path.parts[-3]
                shutil.copytree(path.parent, root / name / "1")
                try:
                    load_model(path, name, 1)
                except ModelRefused as error:
                    refused[name] = error
            server = stack.enter_context(running_server(root))
            made[framework] = Shelf(folder, server, refused)
        yield made


def rows_of(folder: Path) -> tuple[list[Row], list[dict[str, Array]], dict[str, str]]:
    """What each sequence gives, what the framework answers, and the pairs of state."""
    arrays = np.load(folder / "rows.npz")
    count = 1 + max(int(key.split("/")[0]) for key in arrays.files)
    rows: list[Row] = [{} for _ in range(count)]
    answers: list[dict[str, Array]] = [{} for _ in range(count)]
    for key in arrays.files:
        index, name = key.split("/", 1)
        (answers if name.startswith("answer ") else rows)[int(index)][name] = arrays[key]
    state = folder / "state.json"
    return rows, answers, json.loads(state.read_text("utf-8")) if state.is_file() else {}


def right(session: onnxruntime.InferenceSession, row: Row, state: dict[str, str]) -> dict[str, Array]:
    """Every output of one sequence, without the batch; of a file of steps, of one step after the other."""
    names, inputs = [one.name for one in session.get_outputs()], session.get_inputs()
    read = {one.name for one in inputs}
    given = {name: value for name, value in row.items() if name in read}
    if not state:
        found = dict(zip(names, session.run(names, given), strict=True))
        return {name: value[0] for name, value in found.items() if value.ndim}
    carried = {one.name: np.zeros([d if isinstance(d, int) else 1 for d in one.shape], np.float32) for one in inputs}
    carried = {name: carried[name] for name in state}
    seen: dict[str, list[Array]] = {name: [] for name in names}
    for step in range(len(next(iter(given.values())))):
        now = {name: value[step] for name, value in given.items()}
        found = dict(zip(names, session.run(names, {**now, **carried}), strict=True))
        carried = {name: found[output] for name, output in state.items()}
        for name, value in found.items():
            seen[name].append(value.ravel())
    return {name: np.stack(values) for name, values in seen.items()}


def body_of(card: dict[str, Any], rows: list[Row], stepwise: bool) -> dict[str, Any]:
    """The request for several sequences, each input by what the card says of it."""

    def items(name: str, row: Row, role: str) -> Any:
        value = row[name].reshape(len(row[name]), -1) if stepwise else row[name][0]
        return (value.astype(np.int64) if role == "sequence" and card["input"]["kind"] == "tokens" else value).tolist()

    sequences = [one["name"] for one in card["inputs"] if one["role"] == "sequence"]
    statics = [one["name"] for one in card["inputs"] if one["role"] == "static"]
    given = [{name: items(name, row, "sequence") for name in sequences} for row in rows]
    static = [{name: items(name, row, "static") for name in statics} for row in rows]
    answering = [one for one in card["outputs"] if one["role"] in ("steps", "final")]
    return {
        "sequences": given if len(sequences) > 1 else [one[sequences[0]] for one in given],
        "return": "steps" if answering[0]["role"] == "steps" else "final",
        "heads": [one["name"] for one in answering[1:]],
        "decode": False,
        **({"static": static} if statics else {}),
    }


@pytest.mark.parametrize(("framework", "name"), CASES)
def test_an_exported_file_is_served_right_or_refused_with_a_remedy(
    framework: str, name: str, shelves: dict[str, Shelf]
) -> None:
    shelf = shelves[framework]
    if (framework, name) in REFUSED:
        reason, remedy = REFUSED[framework, name]
        assert re.search(reason, shelf.refused[name].reason) and remedy in str(shelf.refused[name].remedy)
        return
    assert name not in shelf.refused, str(shelf.refused[name])
    rows, answers, state = rows_of(shelf.folder / name)
    session = onnxruntime.InferenceSession(str(shelf.folder / name / "1" / "model.onnx"))
    card = shelf.server.client.get(f"/v1/models/{name}").json()
    assert card["streaming"] or not state
    assert card["cell"] == CELLS.get(name, card["cell"])
    body = body_of(card, rows, bool(state))
    answer = shelf.server.client.post(f"/v1/models/{name}/predict", json=body)
    assert answer.status_code == 200, answer.text
    for row, own, result in zip(rows, answers, answer.json()["results"], strict=True):
        expected = right(session, row, state)
        for one, theirs in zip(expected.values(), own.values(), strict=False):
            np.testing.assert_allclose(one, theirs[0], atol=1e-4)
        primary = result["outputs" if body["return"] == "steps" else "output"]
        for one in (output for output in card["outputs"] if output["role"] in ("steps", "final")):
            found = result["heads"][one["name"]] if one["name"] in body["heads"] else primary
            value = expected[one["name"]]
            np.testing.assert_allclose(np.reshape(found, value.shape), value, atol=2e-5)
