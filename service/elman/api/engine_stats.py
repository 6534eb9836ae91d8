"""What the engine of each worker does now."""

from pydantic import BaseModel, ConfigDict, Field

from elman.api.server import ServedModel, Server


class _Stats(BaseModel):
    model_config = ConfigDict(defer_build=True)


class ModelStats(_Stats):
    """The engine's counters for one model since it was loaded."""

    model: str
    version: int
    runs: int
    rows: int = Field(description="Rows of all runs; divided by runs, the mean batch")
    steps: int = Field(description="Useful steps")
    padded_steps: int
    sequences: int
    queued: int
    run_seconds: float
    max_batch: int


class WorkerStats(_Stats):
    """What the engine of one worker does now. The counters are its own."""

    process: int = Field(description="The id of the worker process")
    queued: int = Field(description="Sequences not answered yet")
    pending_seconds: float = Field(description="Work not answered yet, in seconds by the calibrated costs")
    streams: int = Field(description="WebSocket streams open")
    models: list[ModelStats]


class EngineStats(WorkerStats):
    """What the engine of the worker that answers does now; and, if they were asked for, those of all workers."""

    sessions: int = Field(description="Sessions in the store, those of other processes included")
    workers: dict[int, WorkerStats | None] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="By the number of each worker, as in the label `worker` of the metrics; null for one that did not "
        "answer in time",
    )


def worker_stats(server: Server, process: int, num_streams: int) -> WorkerStats:
    """What the engine of this worker does now."""
    return WorkerStats(
        process=process,
        queued=server.engine.num_pending,
        pending_seconds=server.engine.pending_seconds,
        streams=num_streams,
        models=[_model_stats(one) for one in server],
    )


def _model_stats(served: ServedModel) -> ModelStats:
    stats = served.queue.stats
    return ModelStats(
        model=served.model.name,
        version=served.model.version,
        runs=stats.num_runs,
        rows=stats.num_rows,
        steps=stats.num_steps,
        padded_steps=stats.num_padded_steps,
        sequences=stats.num_sequences,
        queued=len(served.queue.scheduler),
        run_seconds=stats.run_seconds,
        max_batch=served.queue.scheduler.policy.max_batch,
    )
