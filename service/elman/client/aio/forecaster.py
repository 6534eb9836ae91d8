"""What a model of the asynchronous client foretells."""

from collections.abc import Sequence
from typing import Any, overload

from elman.client.aio.sender import AsyncSender
from elman.client.aio.session import AsyncSession
from elman.client.calls import ForecastOptions, ModelCalls
from elman.client.calls.call import id_of
from elman.client.config import Timeout
from elman.client.inputs import SeriesLike, SeriesList, by_name, is_many, is_table, listed
from elman.client.results import Card, Forecast
from elman.client.wire import StaticLike


class AsyncForecaster:
    """The card of a model, and its forecasts."""

    def __init__(self, sender: AsyncSender, calls: ModelCalls) -> None:
        self._sender = sender
        self._calls = calls

    async def card(self) -> Card:
        """What the server says of the model.

        >>> card = await client.model("vowels-gru").card()
        >>> card.cell, card.input["size"], card.labels[0]
        ('gru', 12, 'speaker 1')
        """
        return await self._sender.send(self._calls.card())

    @overload
    async def forecast(
        self,
        series: SeriesList[Any],
        horizon: int | None = None,
        *,
        samples: int = 0,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        future: Sequence[SeriesLike] | None = None,
        paths: bool = False,
        static: StaticLike | Sequence[StaticLike] | None = None,
        timeout: Timeout | float | None = None,
    ) -> list[Forecast]: ...

    @overload
    async def forecast(
        self,
        series: SeriesLike,
        horizon: int | None = None,
        *,
        samples: int = 0,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        future: SeriesLike | None = None,
        paths: bool = False,
        session: AsyncSession | str | None = None,
        state: str | None = None,
        static: StaticLike | None = None,
        timeout: Timeout | float | None = None,
    ) -> Forecast: ...

    async def forecast(
        self,
        series: SeriesLike | SeriesList[Any],
        horizon: int | None = None,
        *,
        samples: int = 0,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        future: SeriesLike | Sequence[SeriesLike] | None = None,
        paths: bool = False,
        session: AsyncSession | str | None = None,
        state: str | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        timeout: Timeout | float | None = None,
    ) -> Forecast | list[Forecast]:
        """Forecast the coming steps of a series, or of each series of a list, in the units of the data.

        >>> import numpy as np
        >>> history = [5.0, 11.0, 16.0, 23.0, 36.0, 58.0, 29.0, 20.0, 10.0, 8.0]
        >>> forecast = await client.model("sunspots-rnn").forecast(history, horizon=11)
        >>> forecast.point.shape
        (11,)
        >>> forecasts = await client.model("sunspots-rnn").forecast([np.array(history), np.array(history[2:])], 11)
        >>> len(forecasts)
        2

        Args:
            series: `(time,)` or `(time, features)`, in the units of the data. The columns of a data frame of pandas or
                polars are matched by name with the model's features. Or many series of any lengths: arrays or data
                frames in a list or from a generator. They are sent in one request. For a model with several sequence
                inputs a series is a mapping from the name of each to its values.
            horizon: number of steps to forecast; None for 24, or for all steps of a model that gives them at once.
            samples: number of paths to sample for `mean` and `quantiles`; 0 for the point forecast alone. No two
                series share random numbers.
            quantiles: shares between 0 and 1; None for 0.1, 0.5 and 0.9.
            seed: for the random numbers; None for one that the server draws. It is in the result.
            future: `(horizon, known)`: the features of the coming steps that are known ahead; or a data frame. For a
                list of series a list with one for each. For a model with several sequence inputs a mapping: by the name
                of each its values in the coming steps, and by that of the data the features that are known ahead.
            paths: whether to return the sampled paths.
            session: a session, or its id, to continue from. The session itself does not move.
            state: continue from this state token.
            static: the static inputs by name, if the model has any and neither session nor state is given. For a list
                of series one for all, or one each.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own. The server is told too.

        Raises:
            Unable: the model cannot forecast (`cannot_forecast`); `detail` has the reason.
            RequestError: an option is out of range, or the series is wrong; `where` names it, such as
                `series_list[3][17]`.
            ValueError: a data frame lacks a column, the model does not name its features, or there are too few or too
                many futures.
            DeadlineExceeded, TimedOut: it took longer than `timeout`. Both are TimeoutErrors.
        """
        rows, ahead, deadline = listed(series), listed(future), self._sender.deadline(timeout)
        many = is_many(rows)
        if any(map(is_table, [*rows, *(() if ahead is None else ahead)] if many else [rows, ahead])):
            card = await self._sender.send(self._calls.card(), deadline)
            names = card.input.get("names")
            known = (card.raw.get("forecast") or {}).get("known") or []
            rows = by_name(rows, names, "series", many)
            ahead = None if ahead is None else by_name(ahead, names and [names[i] for i in known], "future", many)
        options = ForecastOptions(
            horizon=horizon,
            samples=samples,
            quantiles=quantiles,
            seed=seed,
            future=ahead,
            paths=paths,
            session=id_of(session),
            state=state,
            static=static,
            timeout=timeout,
        )
        if many:
            return await self._sender.send(self._calls.forecast_many(rows, options), deadline)
        return await self._sender.send(self._calls.forecast(rows, options), deadline)
