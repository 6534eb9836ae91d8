"""KServe's time series routes: `POST /v1/timeseries/forecast` and `GET /v1/timeseries/models`."""

from fastapi import APIRouter
from msgspec.structs import replace

from elman.api.forecast import Forecast
from elman.api.server import Server
from elman.codec.pool import LARGE, is_heavy
from elman.codec.timeseries import as_forecast, as_time_series, at_its_place
from elman.engine.work import Steps, Work, script
from elman.errors import ElmanError
from elman.http.endpoint import Request, Response
from elman.http.roles import Need, needs
from elman.repository.feeding import driving_of, why_no_forecast
from elman.repository.model import Model


class TimeSeries:
    """The forecast endpoint of KServe's protocol: a forecast request of several series in other words."""

    needs: Need = "infer"

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.pool = forecast.server.pool

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the series first. Raises ElmanError."""
        return script(self._forecast(request))  # type: ignore[no-any-return]

    def _forecast(self, request: Request) -> Steps[Response]:
        content = request.body
        asked, starts, body = yield from self.pool.offload(is_heavy(content), as_forecast, content)
        try:
            answered = yield from self.forecast.steps(replace(request, parameters={"name": asked.model}, body=body))
        except ElmanError as error:
            raise at_its_place(error) from None
        answer = answered.content
        content = yield from self.pool.offload(len(answer) > LARGE, as_time_series, asked, starts, answer)
        return replace(answered, content=content)


def timeseries_router(server: Server) -> APIRouter:
    """The route that lists the models which forecast."""
    router = APIRouter(prefix="/v1/timeseries", tags=["autoregressive"])

    @router.get("/models")
    @needs("key")
    async def list_time_series_models() -> list[str]:
        """The names of the models that `/v1/timeseries/forecast` takes."""
        return [one.model.name for one in server.defaults() if _takes(one.model)]

    return router


def _takes(model: Model) -> bool:
    """Whether a model forecasts, and needs neither static nor further sequence inputs: the protocol has none."""
    if why_no_forecast(model) is not None or model.network.further:
        return False
    return len(model.network.statics) == (driving_of(model).future is not None)
