"""ONNX Runtime behind one door: the options that exactness and latency depend on, set in one place."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

RUNTIME_VERSION: str = ort.__version__
RUNTIME_BUILD: str = f"{ort.__version__}, {ort.get_build_info()}"

# Fatal messages only: what the runtime prints about a user's graph is reported through exceptions instead.
_LOG_SEVERITY = 4

# How its messages name a node: where it fails, where it does not fit, and elsewhere.
_NODE = re.compile(
    r"running (?P<operator>\w+) node\. Name:'(?P<name>[^']*)'"
    r"|Node \((?P<at>[^()\n]*)\) Op \((?P<op>\w+)\)"
    r"|Node:? ?\(?'?(?P<other>[^()'\n]+)'?\)?"
)


class RuntimeFailure(Exception):
    """ONNX Runtime could not open or run a graph. `node` names the node at fault, where it said."""

    def __init__(self, message: str, node: str | None) -> None:
        super().__init__(message)
        self.node = node


class RunStopped(RuntimeFailure):
    """A run was stopped from another thread."""


class GraphSession:
    """One opened graph.

    One thread and no spinning: rows and processes are what runs in parallel, and the split of a matrix
    product over threads would make its bits depend on the batch. `optimised` is whether the runtime may fuse nodes.
    """

    def __init__(self, model: bytes, *, optimised: bool = True) -> None:
        self._options = ort.RunOptions()
        ort.disable_telemetry_events()  # a server says nothing to anyone but its clients
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A product with weights of 8 bits or fewer is computed in float32, as the file says. The default rounds its
        # other factor to 8 bits too.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.log_severity_level = _LOG_SEVERITY
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _failure(error) from None
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Run once and return `outputs` in order. Raises RuntimeFailure, and RunStopped if `stopper` stopped it."""
        options = self._options = ort.RunOptions()
        try:
            return self._session.run(outputs, feeds, options)  # type: ignore[no-any-return]
        except Exception as error:
            failure = _failure(error)
            raise (RunStopped(str(failure), failure.node) if options.terminate else failure) from None

    def stopper(self) -> Callable[[], None]:
        """Stops the run that is under way now, and no later one. Both calls may come from another thread.

        The runtime looks at this between two nodes of the graph, also inside of a loop.
        """
        options = self._options

        def stop() -> None:
            options.terminate = True

        return stop


def _failure(error: Exception) -> RuntimeFailure:
    text = str(error).strip()
    found = _NODE.search(text)
    said = {} if found is None else found.groupdict()
    operator, name = said.get("operator") or said.get("op"), said.get("name") or said.get("at") or said.get("other")
    if operator is not None:
        name = f"{operator} {name!r}" if name else operator
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text).split("\n")[0]
    return RuntimeFailure(first, name)
