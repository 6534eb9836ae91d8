"""`POST /v1/models/{name}/forecast`: continues series, with the model's output as its next input."""

import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from elman.api.autoregressive import advance, last_output, read_start
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json, outputs_of
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.limits import check_statics
from elman.codec.requests import ForecastRequest
from elman.codec.rows import prepared, scaled
from elman.codec.series import Series
from elman.engine.forecasting import PATHS, ForecastPlan, PathBlock, path_blocks, paths_of_errors
from elman.engine.heads import Head
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Steps, Work, aside_if, run, script
from elman.errors import CannotForecast, InvalidField, NotFiniteOutput, TooLong, WrongLength
from elman.http.endpoint import Request, Response
from elman.http.roles import Need
from elman.repository.feeding import Driving, driving_of, why_no_forecast
from elman.repository.network import Array
from elman.repository.spec import ErrorsSpec, ForecastSpec
from elman.sessions.snapshot import Snapshot

# Most values that one request computes, in all paths, and most that its answer has.
_MAX_VALUES = 10_000_000
_MAX_ANSWERED = 2_000_000
# Most bytes of the states or windows of all paths, which are held until the last path ends.
_MAX_HELD = 400_000_000
# More series, or the first step of more paths, take milliseconds, so a thread prepares them.
_THREAD_SERIES = 50
_THREAD_PATHS = 2_000
# More values take milliseconds to sort and encode, so the codec pool does it.
_POOL_VALUES = 20_000


class Forecast:
    """The forecast endpoint."""

    needs: Need = "infer"

    def __init__(self, server: Server) -> None:
        self.server = server

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the series first. Raises ElmanError."""
        return script(self.steps(request))  # type: ignore[no-any-return]

    def steps(self, request: Request) -> Steps[Response]:
        """The script of a request."""
        start = yield from read_start(self.server, request, _check, AutoregressiveDecoder.forecast)
        served, (options, given, horizon) = start.served, start.decoded
        driving, spec = driving_of(served.model), served.model.spec.forecast
        # Paths from the errors of whole forecasts are made from the point forecast. Others are run.
        num_paths = options.samples if spec is None or spec.errors is None else 0
        of_each = 1 + num_paths
        _check_size(served, options, len(given), horizon, of_each)
        most = served.queue.scheduler.policy.max_block
        self._check_blocks(len(given), -(-of_each // most))
        _check_origin(driving, options)
        deadline = request.deadline(options.timeout)
        seed = secrets.randbits(32) if options.seed is None else options.seed
        many = len(given) > _THREAD_SERIES
        contexts, plans = yield from aside_if(many, _prepare, served, start.snapshot, given, horizon, seed)
        check_statics([one.snapshot.statics for one in contexts], "samples" if num_paths else "static", of_each)
        outputs = yield from _read(served, driving, contexts, deadline)
        values = np.empty((len(plans), of_each, plans[0].horizon, len(plans[0].mean)))
        in_thread = many or len(plans) * of_each > _THREAD_PATHS
        beginning = contexts, plans, outputs, values, most, deadline
        sequences, places = yield from aside_if(in_thread, _begin, *beginning)
        yield from run(served.queue, sequences, places)
        # One run of a direct model gives the values of several steps.
        values = values.reshape(len(plans), of_each, -1, len(driving.target))
        values = values[:, :, :horizon]  # (series, 1 + paths, horizon, outputs)
        errors = None if spec is None else spec.errors
        arguments = served.key, options, seed, values, errors, plans[0].minimum
        size = max(1 + options.samples, _num_figures(options)) * values[:, 0].size
        content = yield from self.server.pool.offload(many or size > _POOL_VALUES, encode_forecast, *arguments)
        return Response(content, model=served.key)

    def _check_blocks(self, num_series: int, of_each: int) -> None:
        """Raise TooLong if the engine has no room for all paths of a request."""
        most = self.server.limits.max_sequences
        if num_series * of_each > most:
            raise TooLong(
                f"{num_series} series with so many paths each are too many at once",
                where="samples" if of_each > 1 else "series_list",
                expected=f"at most {most // of_each} series, or fewer samples",
            )


@dataclass
class _Context:
    """What one series is forecast from.

    Attributes:
        place: the `where` of its errors.
        rows: those that the first run reads, `(length, features)`; empty to go on from the snapshot alone.
        further: the other sequence inputs of those rows.
        future: the features known ahead for each row that is fed back, `(steps, known)`; None if the model has none.
        ahead: the other sequence inputs of the first rows that are fed back, and of those after them.
        scale: mean and std of each feature, float64 `(2, features)`.
        snapshot: where the series stands: before its rows, and then after them if the model carries a state.
        window: the rows, if each run reads the last ones anew.
        carries: whether the model carries a state from run to run.
    """

    place: str
    rows: Array
    further: tuple[Array, ...]
    future: Array | None
    ahead: tuple[Array, ...]
    scale: Array
    snapshot: Snapshot
    window: Array | None
    carries: bool


def _prepare(
    served: ServedModel, start: Snapshot, given: list[Series], horizon: int, seed: int
) -> tuple[list[_Context], list[ForecastPlan]]:
    """What each series is forecast from, and its plan. Raises as `_context`."""
    driving = driving_of(served.model)
    contexts = [_context(served, driving, start, one) for one in given]
    return contexts, [forecast_plan(served, driving, horizon, seed, one) for one in contexts]


def _context(served: ServedModel, driving: Driving, start: Snapshot, series: Series) -> _Context:
    """What a series is forecast from. Raises WrongLength if it has fewer rows than a run reads, and as `prepared`."""
    rows, future, statics, memory = series.rows, series.future, series.statics, start.memory
    further, ahead = series.further, series.ahead
    if served.format.remembers and len(rows):
        rows, memory = prepared(rows, served.format, memory, series.place, driving.window)
    scale = served.format.scale if memory is None else memory[:2]
    if future is not None:
        future = scaled(future, driving.known, scale, series.future_place)
        if driving.future is not None:
            statics, future = _with_future(served, driving, statics, future), None
        elif driving.known_for == "next" and len(rows):
            rows, future = _shifted(rows, future, driving.known), future[1:]
    if driving.known_for == "next" and len(rows) and ahead:
        further = tuple(np.concatenate([old[1:], new[:1]]) for old, new in zip(further, ahead, strict=True))
        ahead = tuple(new[1:] for new in ahead)
    if driving.window is not None:
        rows = _last_rows(rows, driving.window, series.place)
        further = tuple(one[-driving.window :] for one in further)
    window = rows if driving.drive == "window" else None
    if window is not None:
        ahead = tuple(np.concatenate([old[1:], new]) for old, new in zip(further, ahead, strict=True))
    # A session or a state has its static inputs already.
    snapshot = replace(start, statics=statics or start.statics, memory=memory)
    return _Context(series.place, rows, further, future, ahead, scale, snapshot, window, driving.carries_state)


def _with_future(served: ServedModel, driving: Driving, statics: tuple[Array, ...], future: Array) -> tuple[Array, ...]:
    """The static inputs with the one that takes what is known ahead of all steps."""
    at = driving.future
    tensor = served.format.statics[at or 0]
    value = future[: driving.horizon].reshape([extent or 1 for extent in tensor.shape]).astype(tensor.dtype)
    return (*statics[:at], value, *statics[at:])


def _check_origin(driving: Driving, options: ForecastRequest[Any, Any]) -> None:
    """Raise InvalidField if a model that reads its rows anew is asked to go on from a session or a state."""
    if driving.carries_state:
        return
    for name in ("session", "state"):
        if getattr(options, name) is not None:
            raise InvalidField(
                "the model reads the last rows of a series anew, so it does not go on from a state",
                where=name,
                expected="a series",
            )


def _shifted(series: Array, future: Array, known: tuple[int, ...]) -> Array:
    """A series whose rows have the known features of the step after them, which the first row ahead completes."""
    series = series.copy()
    columns = list(known)
    series[:-1, columns] = series[1:, columns]
    series[-1, columns] = future[0]
    return series


def _last_rows(series: Array, window: int, place: str) -> Array:
    """The rows that one run reads. Raises WrongLength if there are too few."""
    if len(series) < window:
        raise WrongLength(
            f"the series has {len(series)} steps, the model reads windows of {window}",
            where=place,
            expected=f"{window} steps or more",
        )
    return series[-window:]


def _read(
    served: ServedModel, driving: Driving, contexts: list[_Context], deadline: float
) -> Steps[list[Array | None]]:
    """Run the rows of each series. Returns the last output of each, `(output_size,)`; None if there is none yet."""
    unread = [one for one in contexts if len(one.rows)]
    places = [one.place for one in unread]
    if driving.carries_state:
        rows = [Inputs(one.rows, one.further) for one in unread]
        after = yield from advance(served, rows, [one.snapshot for one in unread], deadline, places)
        for context, snapshot in zip(unread, after, strict=True):
            context.snapshot = snapshot
        return [one.snapshot.output for one in contexts]
    sequences = [
        Sequence(one.rows, further=one.further, statics=one.snapshot.statics, deadline=deadline) for one in contexts
    ]
    yield from run(served.queue, sequences, places)
    return [outputs_of(one)[-1] for one in sequences]


def _begin(
    contexts: list[_Context],
    plans: list[ForecastPlan],
    outputs: list[Array | None],
    values: Array,
    most: int,
    deadline: float,
) -> tuple[list[Sequence], list[str]]:
    """Take the first step of all paths. Returns the sequences of the steps after it, and the `where` of each.

    Args:
        outputs: the last output of each series, as `_read` returns them.
        values: filled by the paths, float64 `(series, 1 + samples, horizon, values)`.
        most: most paths of a sequence.

    Raises EmptySequence if a series has no output yet, and NotFiniteOutput.
    """
    sequences, places = [], []
    for index, (context, plan, given) in enumerate(zip(contexts, plans, outputs, strict=True)):
        output = last_output(given, context.place)
        for block in path_blocks(plan, index * PATHS, values[index], most):
            inputs = block.take(np.broadcast_to(output, (len(block.numbers), len(output))))
            if inputs is not None:
                sequences.append(_continued(context, block, inputs, deadline))
                places.append(context.place)
    return sequences, places


def _continued(context: _Context, block: PathBlock, inputs: Array, deadline: float) -> Sequence:
    """The sequence of some paths, which begins with the first inputs that it feeds back."""
    # Rows that are read anew belong to no state.
    state = context.snapshot.state if context.carries else None
    more = (block.plan.horizon - 2) * len(inputs)
    return Sequence(
        inputs,
        feedback=block,
        rows=len(block.numbers),
        state=state,
        anew=state is None,
        more=more,
        deadline=deadline,
        further=context.ahead,
        statics=context.snapshot.statics,
    )


def forecast_plan(served: ServedModel, driving: Driving, horizon: int, seed: int, context: _Context) -> ForecastPlan:
    """The plan that all paths of a series share."""
    model = served.model
    size, features = model.network.output_size, model.network.features or 0
    spec = model.spec.forecast or ForecastSpec()
    # A direct model gives all its values in one run.
    horizon = 1 if driving.drive == "direct" else horizon
    future = np.zeros((horizon - 1, features), np.float32)
    if context.future is not None:
        future[:, driving.known] = context.future[: horizon - 1]
    mean, std = served.outputs.scale(size // driving.num_parameters, context.scale)
    input_mean, input_std = context.scale[:, list(driving.target)]
    residuals = spec.residual_table
    return ForecastPlan(
        horizon=horizon,
        future=future,
        target=driving.target,
        mean=mean,
        std=std,
        input_mean=input_mean,
        input_std=input_std,
        # Those of series with a scale of their own are in the units of the scaled values.
        residuals=residuals * std if served.outputs.target and len(residuals) else residuals,
        minimum=spec.minimum,
        seed=seed,
        window=context.window,
        head=None if spec.head is None else Head(spec.head),
    )


def encode_forecast(
    key: tuple[str, int],
    request: ForecastRequest[Any, Any],
    seed: int,
    values: Array,
    errors: ErrorsSpec | None = None,
    minimum: float | None = None,
) -> bytes:
    """The answer as JSON. Raises NotFiniteOutput.

    Args:
        values: for each series the point forecast, then each path that was run: float64
            `(series, 1 + paths, horizon, outputs)`.
        errors: what sampled paths are made from, if they were not run.
        minimum: smaller values of those are raised to this.
    """
    if errors is not None and request.samples:
        numbers = PATHS * np.arange(len(values))[:, None] + np.arange(request.samples)
        paths = paths_of_errors(values[:, 0], errors, seed, numbers, minimum)
        values = np.concatenate([values, paths], axis=1)  # (series, 1 + samples, horizon, outputs)
    finite = np.isfinite(values)
    if not finite.all():
        step, index = np.argwhere(~finite.all(axis=(1, 3)).T)[0].tolist()
        of = f" of series {index}" if request.many else ""
        expected = f"at most {step}" if step else None
        raise NotFiniteOutput(f"the forecast{of} is not finite from step {step}", where="horizon", expected=expected)
    head = {"model": key[0], "version": key[1], "horizon": values.shape[2], "seed": seed}
    results = [_figures(request, of_one) for of_one in values]
    return encode_json({**head, "results": results} if request.many else {**head, **results[0]})


def _figures(request: ForecastRequest[Any, Any], values: Array) -> dict[str, Any]:
    """What the answer says of one series, from its values `(1 + samples, horizon, outputs)`."""
    found: dict[str, Any] = {"point": _rows(values[0])}
    if request.samples:
        sampled = values[1:]
        found["mean"] = _rows(sampled.mean(axis=0))
        levels = np.quantile(sampled, request.levels, axis=0)
        found["quantiles"] = {str(level): _rows(rows) for level, rows in zip(request.levels, levels, strict=True)}
        if request.paths:
            found["paths"] = [_rows(path) for path in sampled]
    return found


def _rows(values: Array) -> Array:
    """A list of numbers if there is one output, a list of rows otherwise."""
    return np.ascontiguousarray(values[:, 0] if values.shape[1] == 1 else values)


def _check(served: ServedModel) -> None:
    reason = why_no_forecast(served.model)
    if reason is not None:
        raise CannotForecast(f"{served.model.name} cannot forecast: {reason}")


def _num_figures(request: ForecastRequest[Any, Any]) -> int:
    """How many numbers the answer has for each value: the point, and with samples the mean, quantiles and paths."""
    return 1 + (1 + len(request.levels) + request.samples * request.paths if request.samples else 0)


def _held_bytes(served: ServedModel, driving: Driving, horizon: int) -> int:
    """Bytes that a path holds from step to step: its state, or the rows that it reads anew."""
    if driving.drive == "direct" or horizon == 1:
        return 0
    if driving.window is None:
        return len(served.snapshots.first.state)
    return 4 * driving.window * (served.model.network.features or 0)


def _check_size(
    served: ServedModel, request: ForecastRequest[Any, Any], num_series: int, horizon: int, of_each: int
) -> None:
    """Raise CannotForecast, InvalidField or TooLong if the model cannot give all values, or they are too many.

    of_each: the paths of each series that are run, with the point forecast.
    """
    spec = served.model.spec.forecast
    if request.samples and (spec is None or not spec.sampled):
        raise CannotForecast(
            f"{served.model.name} cannot sample paths: its model.json has neither errors, residuals nor a head",
            where="samples",
            expected=0,
        )
    if request.samples and spec is not None and spec.errors is not None and horizon > spec.errors.steps:
        raise InvalidField(
            f"{served.model.name} samples no paths of {horizon} steps: its errors are known for {spec.errors.steps}",
            where="horizon",
            expected=f"1 to {spec.errors.steps}, or samples: 0",
        )
    driving = driving_of(served.model)
    if driving.drive == "direct" and horizon > driving.horizon:
        raise InvalidField(
            f"{served.model.name} foretells {driving.horizon} steps",
            where="horizon",
            expected=f"1 to {driving.horizon}",
        )
    each = num_series * len(driving.target)
    # A direct model computes all its steps, also those that are not asked for.
    steps = driving.horizon if driving.drive == "direct" else horizon
    for size, most, what, unit in (
        (each * steps * (1 + request.samples), _MAX_VALUES, "all paths of the forecast would have", "values"),
        (each * horizon * _num_figures(request), _MAX_ANSWERED, "the answer would have", "values"),
        (num_series * of_each * _held_bytes(served, driving, horizon), _MAX_HELD, "the paths would hold", "bytes"),
    ):
        if size > most:
            where = "samples" if request.samples else "horizon" if num_series == 1 else "series_list"
            raise TooLong(f"{what} {size} {unit}", where=where, expected=f"at most {most} {unit}")
