"""The series of a forecast request, each with its static inputs and the features that are known ahead."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from elman.codec.arrays import features_array
from elman.codec.faults import invalid_field
from elman.codec.json import JSONDecoder
from elman.codec.requests import ForecastRequest
from elman.codec.tensors import json_type, tensor_array
from elman.errors import InvalidField, TooLong, WrongFeatures
from elman.repository.feeding import Driving
from elman.repository.network import Array, InputTensor
from elman.repository.spec import ErrorsSpec

MAX_SERIES = 2**16
"""Most series of a request. Each has random numbers of its own."""
DEFAULT_HORIZON = 24
"""Steps of a forecast, unless one run of the model gives another number of them."""


class Series(NamedTuple):
    """One series.

    Attributes:
        place, future_place: the `where` of its errors, such as `series_list[3]`, and of those of its future.
        rows: `(length, features)`, as `elman.codec.rows.as_read` gives them; empty if there is only a state or session.
        statics: the static inputs, in the order of `Network.statics`; empty if a state or session holds them.
        future: the features known ahead in the data's units, float64 `(rows, known)`; None if the model has none.
        further: the other sequence inputs, in the order of `Network.further`, as long as `rows`.
        ahead: their values for the steps that are fed back, `(rows, ...)` each.
    """

    place: str
    rows: Array
    statics: tuple[Array, ...]
    future: Array | None
    future_place: str = "future"
    further: tuple[Array, ...] = ()
    ahead: tuple[Array, ...] = ()


class SeriesDecoder:
    """Makes the series of a forecast request for one model. Can be pickled, for the codec pool.

    Attributes:
        decoder: of the model, without the static input that takes the future.
        horizon: steps to forecast, where a request does not say.
    """

    def __init__(
        self, decoder: JSONDecoder, driving: Driving, names: Sequence[str] | None, errors: ErrorsSpec | None
    ) -> None:
        self._driving = driving
        if driving.future is not None:
            # The input that takes what is known ahead is given as `future`, not among the static inputs.
            statics = list(decoder.format.statics)
            del statics[driving.future]
            decoder = replace(decoder, format=replace(decoder.format, statics=tuple(statics)))
        self.decoder = decoder
        others = DEFAULT_HORIZON if errors is None else errors.steps
        self.horizon = driving.horizon if driving.drive == "direct" else others
        self._num_known = driving.num_known
        self._row = f"rows of {driving.num_known}"
        if names and driving.known:
            self._row += ": " + ", ".join(names[index] for index in driving.known)
        # A direct model reads nothing after its series.
        self._ahead = () if driving.drive == "direct" else decoder.format.further

    def decode(self, request: ForecastRequest[Any, Any], horizon: int) -> list[Series]:
        """The series of a request for `horizon` steps. Raises RequestError."""
        many, items = request.many, request.series_list or [request.series]
        most = min(self.decoder.limits.max_sequences, MAX_SERIES)
        if len(items) > most:
            raise TooLong(
                f"the request has {len(items)} series", where="series_list", expected=f"at most {most} series"
            )
        held = request.state is not None or request.session is not None
        statics = self.decoder.statics_of_each(request.static, len(items), many, held=held)
        futures = self._futures(request.future, len(items), many)
        found = []
        for index, (item, static, ahead) in enumerate(zip(items, statics, futures, strict=True)):
            place, at = (f"series_list[{index}]", f"future[{index}]") if many else ("series", "future")
            needed = self._num_ahead(horizon, item is not None)
            rows, further = self._rows(item, place)
            if self._ahead:
                ahead, values, at = self._by_name(ahead, needed, at)
            else:
                values = ()
            future = self._future(ahead, needed, at)
            found.append(Series(place, rows, static, future, at, further, values))
        return found

    def _rows(self, item: Any, place: str) -> tuple[Array, tuple[Array, ...]]:
        """The rows of a series and its further sequence inputs; without steps if there is none. Raises RequestError."""
        format = self.decoder.format
        if item is None:
            return np.zeros((0, format.features or 1), format.numpy_dtype), tuple(map(_no_steps, format.further))
        if not format.further:
            return features_array(item, format, place, self.decoder.limits), ()
        read = self.decoder.inputs(item, place)
        return read.data, read.further

    def _by_name(self, given: Any, needed: int, where: str) -> tuple[Any, tuple[Array, ...], str]:
        """The parts of an object by name: rows of features known ahead, the further inputs, and the place of the rows.

        Raises RequestError.
        """
        format, names = self.decoder.format, [one.name for one in self._ahead]
        wanted = [*([format.data] if self._num_known else []), *names]
        if not needed and given is None:
            given = {name: [] for name in wanted}
        if not isinstance(given, dict) or set(given) != set(wanted):
            raise InvalidField(
                "future gives the values of the steps ahead by the name of the input",
                where=where,
                expected=f"an object of {', '.join(wanted)}, each with {needed} rows",
            )
        values = []
        for one in self._ahead:
            place = f"{where}.{one.name}"
            rows = _typed(given[one.name], json_type(one), place)
            if len(rows) < needed:
                raise InvalidField(f"there are {len(rows)} rows ahead", where=place, expected=f"{needed} rows")
            read = tensor_array(rows[:needed], one, place, self.decoder.limits) if needed else _no_steps(one)
            values.append(read)
        place = f"{where}.{format.data}"
        known = _typed(given[format.data], list[list[float] | float], place) if self._num_known else None
        return known, tuple(values), place

    def _num_ahead(self, horizon: int, has_rows: bool) -> int:
        """Rows of the future that are read: one for each input row that lacks the known features."""
        if self._driving.future is not None:
            return self._driving.horizon
        # The last row that is read foretells the last step. It is given where rows have the features of the next step.
        return horizon - 1 + (self._driving.known_for == "next" and has_rows)

    def _futures(self, future: Any, num_series: int, many: bool) -> list[Any]:
        """The future of each series, not checked yet. Raises InvalidField."""
        if future is None or not many:
            return [future] * num_series
        kind = dict if self._ahead else list
        if len(future) != num_series or not all(isinstance(one, kind) for one in future):
            raise InvalidField(
                f"future has {len(future)} entries for {num_series} series",
                where="future",
                expected=f"a list with {'an object' if self._ahead else 'the rows'} of each series",
            )
        return list(future)

    def _future(self, rows: Any, needed: int, where: str) -> Array | None:
        """The features known ahead in the data's units, float64. Raises RequestError."""
        width = self._num_known
        if not width:
            if rows:
                raise InvalidField("the model has no features known ahead", where=where, expected="no future")
            return None
        wanted = f"{needed} {self._row}"
        if not isinstance(rows, list | None):
            raise InvalidField("future is an object", where=where, expected=wanted)
        lists = [row if isinstance(row, list) else [row] for row in rows or []]
        if len(lists) < needed:
            raise InvalidField(f"future has {len(lists)} rows", where=where, expected=wanted)
        for index, row in enumerate(lists):
            place = f"{where}[{index}]"
            if len(row) != width:
                raise WrongFeatures(f"the row has {len(row)} values", where=place, expected=wanted)
            if not all(isinstance(value, float) for value in row):
                raise InvalidField("a row is not of numbers", where=place, expected=wanted)
        return np.array(lists, np.float64).reshape(-1, width)


def _no_steps(tensor: InputTensor) -> Array:
    """A sequence input without steps."""
    return np.zeros((0, *(extent or 1 for extent in tensor.shape)), tensor.dtype)


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Decoded JSON as a value of a type. Raises InvalidField."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        raise invalid_field(f"{text} - at `$.{where}{at or '`'}") from None
