"""What the protocol says of a model: metadata, configuration and statistics, for every transport."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from prometheus_client.core import Metric

from elman import __version__
from elman.api.server import ServedModel, Server
from elman.repository.triton import config_of

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "statistics",
)
_PLATFORM = "onnxruntime_onnx"
_MEANINGS = {
    "steps": "one row for each step",
    "final": "the output after the last step",
    "state": "the state after the last step",
    "lengths": "the number of output rows of each sequence",
}
_LAST = "elman_last_sequence_timestamp_seconds"
Stats = dict[tuple[str, str], dict[str, float]]
"""The server's own metrics, by model and version, then by the name of the sample."""


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "elman", "version": __version__, "extensions": list(EXTENSIONS)}


def metadata(server: Server, served: ServedModel) -> dict[str, Any]:
    """A model's versions, and the inputs and outputs that every request has."""
    ports = served.ports
    outputs = [(one.name, one.datatype, one.shape) for one in ports.listed]
    return {
        "name": served.model.name,
        "versions": [str(version) for version in server.versions(served.model.name)],
        "platform": _PLATFORM,
        "inputs": [_described(*one) for one in ports.inputs],
        "outputs": [_described(*one) for one in outputs],
    }


def _described(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def configuration(served: ServedModel) -> Any:
    """The message `ModelConfig`. Its parameters describe the tensors that the metadata does not list."""
    ports, network = served.ports, served.model.network
    rows = 0 if ports.time_first else min(served.decoder.limits.max_sequences, 2**31 - 1)
    config = config_of(served.model.name, network, served.model.triton, rows)
    described = {"input.lengths": "INT32 or INT64 [batch]: the number of steps of each row, without padding"}
    for one in ports.outputs.values():
        if one not in ports.listed:
            described[f"output.{one.name}"] = f"{one.datatype} {list(one.shape)}: {_MEANINGS[one.kind]}"
        if one.kind == "state" and one.name in ports.states:
            described[f"input.{one.name}"] = f"{one.datatype} {list(one.shape)}: the state before the first step"
    for key, text in described.items():
        config.parameters.add(key=key).value.string_value = text
    return config


def sums_of(families: Iterable[Metric]) -> Stats:
    """The metrics of each model, of all workers together."""
    sums: Stats = defaultdict(lambda: defaultdict(float))
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if "model" in labels and "version" in labels and "le" not in labels:
                found, name = sums[labels["model"], labels["version"]], sample.name
                # A point in time is that of the worker that was last.
                found[name] = max(found[name], sample.value) if name == _LAST else found[name] + sample.value
    return sums


def named(server: Server, name: str, version: str | None) -> list[ServedModel]:
    """The models that a request for statistics means: one version, or all versions of a name. Raises UnknownModel."""
    if version:
        return [server.served(name, version)]
    return [server.served(name, str(one)) for one in server.versions(name)] or [server.served(name)]


def statistics(served: ServedModel, sums: Stats) -> dict[str, Any]:
    """The statistics of one model, since it was loaded.

    The queue, reading, computing and answering are those of requests to `infer`, and have one count: perf_analyzer
    refuses others. None ever falls, since clients subtract them.
    """
    name, version = served.model.name, str(served.model.version)
    found = sums.get((name, version), {})
    requests = int(found.get("elman_request_seconds_count", 0))
    answers = int(found.get("elman_infer_answers_total", 0))

    def spent(what: str) -> dict[str, int]:
        return _duration(answers, found.get(f"elman_infer_{what}_seconds_total", 0.0))

    failed = int(found.get("elman_failed_sequences_total", 0))
    return {
        "name": name,
        "version": version,
        "last_inference": round(1e3 * found.get(_LAST, 0.0)),
        "inference_count": max(0, int(found.get("elman_sequences_total", 0)) - failed),
        "execution_count": int(found.get("elman_runs_total", 0)),
        "inference_stats": {
            "success": _duration(requests, found.get("elman_request_seconds_sum", 0.0)),
            "fail": _duration(failed, 0.0),
            "queue": spent("waiting"),
            "compute_input": spent("reading"),
            "compute_infer": spent("computing"),
            "compute_output": spent("answering"),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(1e9 * seconds)}
