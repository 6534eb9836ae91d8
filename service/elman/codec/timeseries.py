"""KServe's time series protocol as a forecast request, and the answer of that as KServe's.

The types are those of `kserve.protocol.rest.timeseries`. KServe allows further fields; those that a forecast has a
meaning for are here, and all others are refused.
"""

import re
import time
import uuid
from calendar import monthrange
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from elman.codec.answer import encode_json
from elman.codec.faults import decode_body
from elman.codec.requests import Seed, Timeout
from elman.errors import ElmanError, InvalidField

# Paths that are sampled for quantiles, unless the request says how many.
_SAMPLES = 1000
_UNIVARIATE, _MULTIVARIATE = "univariate_time_series", "multivariate_time_series"

SERIES_ROWS: dict[str, dict[str, Any]] = {
    _UNIVARIATE: {"type": ["number", "null"]},
    _MULTIVARIATE: {"type": "array", "minItems": 1},
}
"""What a series of each type is made of, as JSON schema has it."""

SeriesType = Literal["univariate_time_series", "multivariate_time_series"]
Frequency = Literal[
    "second", "S", "minute", "T", "hour", "H", "day", "D", "week", "W", "month", "M", "quarter", "Q", "year", "Y"
]
_SECONDS = {"second": 1, "S": 1, "minute": 60, "T": 60, "hour": 3600, "H": 3600, "day": 86400, "D": 86400}
_SECONDS |= {"week": 7 * 86400, "W": 7 * 86400}
_MONTHS = {"month": 1, "M": 1, "quarter": 3, "Q": 3, "year": 12, "Y": 12}


class TimeSeriesInput(Struct, kw_only=True, forbid_unknown_fields=True):
    """One series."""

    type: SeriesType
    name: Annotated[str, Meta(max_length=256, description="Comes back with the forecast")]
    series: Annotated[
        list[float | list[float | None] | None],
        Meta(
            description="Numbers if it is univariate, rows if it is multivariate, in the data's own units",
            extra_json_schema={"minItems": 1},
        ),
    ]
    frequency: Frequency
    start_timestamp: (
        Annotated[
            str,
            Meta(
                max_length=64,
                description="When the series starts, in ISO 8601",
                extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
            ),
        ]
        | None
    ) = None
    future: (
        Annotated[list[list[float] | float], Meta(description="The features known ahead, one row per step")] | UnsetType
    ) = UNSET


class TimeSeriesOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to forecast."""

    horizon: Annotated[int, Meta(ge=1, le=100_000, description="Number of steps to forecast")]
    quantiles: (
        Annotated[
            list[Annotated[float, Meta(gt=0, lt=1)]],
            Meta(max_length=100, description="Quantiles of the sampled paths", extra_json_schema={"uniqueItems": True}),
        ]
        | None
    ) = None
    samples: (
        Annotated[int, Meta(ge=0, le=5000, description="Paths to sample; without it 1,000 for quantiles, else 0")]
        | None
    ) = None
    seed: Seed | None = None
    timeout: Timeout | None = None


class TimeSeriesRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Series to forecast, as KServe's clients send them."""

    model: str
    inputs: Annotated[list[TimeSeriesInput], Meta(min_length=1)]
    options: TimeSeriesOptions
    metadata: Annotated[dict[str, Any] | None, Meta(description="The client's own notes, which are not read")] = None


_REQUEST = msgspec.json.Decoder(TimeSeriesRequest)


def as_forecast(content: bytes) -> tuple[TimeSeriesRequest, list[str], bytes]:
    """A request, the time at which the forecast of each series starts, and the body of the forecast request.

    The time is empty for a series that does not say when it starts. The series are left out of the request that is
    returned. Raises RequestError.
    """
    request: TimeSeriesRequest = decode_body(_REQUEST, content)
    options, inputs = request.options, request.inputs
    for index, one in enumerate(inputs):
        many = one.type == _MULTIVARIATE
        if any(isinstance(row, list) != many for row in one.series):
            wanted = "a list of rows" if many else "a list of numbers"
            raise InvalidField(f"the series is not {one.type}", where=f"inputs[{index}].series", expected=wanted)
    starts = [_start(one, f"inputs[{index}].start_timestamp") for index, one in enumerate(inputs)]
    samples = options.samples if options.samples is not None else _SAMPLES if options.quantiles else 0
    if options.quantiles and not samples:
        raise InvalidField("quantiles need samples", where="options.samples", expected="1 or more, or no quantiles")
    body: dict[str, Any] = {
        "series_list": [one.series for one in inputs],
        "horizon": options.horizon,
        "samples": samples,
        "quantiles": options.quantiles or [],
        "seed": options.seed,
        "timeout": options.timeout,
    }
    if any(one.future is not UNSET for one in inputs):
        body["future"] = [[] if one.future is UNSET else one.future for one in inputs]
    encoded = msgspec.json.encode(body)
    for one in inputs:
        one.series, one.future = [], UNSET
    return request, starts, encoded


def as_time_series(request: TimeSeriesRequest, starts: list[str], content: bytes) -> bytes:
    """KServe's answer, from that of the forecast request."""
    outputs = []
    for one, start, result in zip(request.inputs, starts, msgspec.json.decode(content)["results"], strict=True):
        forecast = {
            "type": _MULTIVARIATE if isinstance(result["point"][0], list) else _UNIVARIATE,
            "name": one.name,
            "mean_forecast": result.get("mean", result["point"]),
            "frequency": one.frequency,
            "start_timestamp": start,
        }
        if request.options.quantiles:
            forecast["quantiles"] = {str(at): result["quantiles"][str(at)] for at in request.options.quantiles}
        outputs.append({"type": "time_series_forecast", **_done(), "content": [forecast]})
    return encode_json({**_done(), "created_at": int(time.time()), "model": request.model, "outputs": outputs})


def at_its_place(error: ElmanError) -> ElmanError:
    """An error of the forecast request, with the `where` of the field that it comes from."""
    if error.where:
        error.where = re.sub(r"^series_list\[(\d+)\]", r"inputs[\1].series", error.where)
        error.where = re.sub(r"^future\[(\d+)\]", r"inputs[\1].future", error.where)
        error.where = re.sub(r"^(horizon|quantiles|samples|seed|timeout)", r"options.\1", error.where)
        error.where = re.sub(r"^(series_list|future)$", "inputs", error.where)
    return error


def _done() -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "status": "completed", "error": None}


def _start(one: TimeSeriesInput, where: str) -> str:
    """When the forecast of a series starts: as many steps of its frequency after its own start as it has."""
    if one.start_timestamp is None:
        return ""
    wanted = "a time in ISO 8601, such as 2024-01-31T00:00:00Z"
    try:
        found = _after(datetime.fromisoformat(one.start_timestamp), one.frequency, len(one.series)).isoformat()
    except ValueError:
        raise InvalidField("the start is not a time", where=where, expected=wanted) from None
    except OverflowError:
        raise InvalidField("the series would end after the year 9999", where=where, expected=wanted) from None
    return found.replace("+00:00", "Z") if one.start_timestamp.endswith("Z") else found


def _after(start: datetime, frequency: Frequency, steps: int) -> datetime:
    """The time some steps later. A day that a month does not have becomes the last one of that month."""
    if frequency in _SECONDS:
        return start + timedelta(seconds=steps * _SECONDS[frequency])
    years, month = divmod(start.month - 1 + steps * _MONTHS[frequency], 12)
    if start.year + years > datetime.max.year:
        raise OverflowError
    year, month = start.year + years, month + 1
    return start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1]))
