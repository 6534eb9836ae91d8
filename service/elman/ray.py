"""Elman on Ray Serve: the same application in replicas, whose sessions are in Redis. Needs the extra `ray`."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from elman.app import create_app
from elman.http.process import collect_less, keep_memory, within_descriptors
from elman.settings import Settings

# Requests that a replica has at once. Its engine batches them, so many of them make it faster. Ray's default is 5.
_MAX_ONGOING = 200
# The load of a replica that Ray scales towards. Its default of 2 would start a replica for each pair of requests.
_TARGET_ONGOING = 64
# Seconds that a replica has to close its sessions and streams, beyond those for its requests.
_CLOSING = 10.0
# What `elman serve` does with its own sockets and processes. On Ray, Ray's proxies listen.
_OF_A_SERVER = ("admin_port", "grpc_port", "ssl_certfile", "ssl_ca_certs")


def deployment(settings: Settings, **options: Any) -> Any:
    """A deployment of Ray Serve that serves the models of `settings`: `serve.run(deployment(settings).bind())`.

    Each replica loads the models once, from the folder `settings.models`, which every machine must have. By default
    there is one replica. If the sessions are in Redis, Ray starts more as the load grows.

    Args:
        settings: those of each replica. `store` must be the URL of a Redis for more than one replica.
        options: of `ray.serve.deployment`, such as `num_replicas`, `autoscaling_config`, `max_ongoing_requests` and
            `ray_actor_options`. They go before the defaults.

    Raises:
        ModuleNotFoundError: the extra is missing.
        ValueError: there may be several replicas, and they would not share their sessions; there is no folder of
            models; or a setting needs a port of its own, which a replica does not have.
    """
    try:
        from ray import serve
    except ModuleNotFoundError:
        raise ModuleNotFoundError("elman.ray needs Ray Serve: pip install 'elman[ray]'") from None
    options = _options(settings, options)
    _check(settings, options)

    def build() -> FastAPI:
        """Called once in each replica, which is a process of its own."""
        keep_memory()
        collect_less()
        return create_app(within_descriptors(settings))

    return serve.deployment(**options)(serve.ingress(build)(Replica))


class Replica:
    """What Ray asks of a replica, beside the requests that go to the application."""

    app: Any
    """The application, which Ray sets."""

    async def check_health(self) -> None:
        """Raises RuntimeError if the process must be replaced, as `/livez` says. Ray asks every ten seconds."""
        why = self.app.state.server.failure
        if why is not None:
            raise RuntimeError(why)


def _options(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the deployment: those given, and the defaults of the others."""
    scaling: dict[str, Any] = {}
    if settings.is_remote and not given.keys() & {"num_replicas", "autoscaling_config"}:
        scaling = {"num_replicas": "auto", "autoscaling_config": {"target_ongoing_requests": _TARGET_ONGOING}}
    return {
        "name": "elman",
        "max_ongoing_requests": _MAX_ONGOING,
        "graceful_shutdown_timeout_s": settings.drain_timeout + _CLOSING,
        **scaling,
        **given,
    }


def _check(settings: Settings, options: Mapping[str, Any]) -> None:
    """Raise ValueError if replicas cannot do what the settings say."""
    _ = settings.repository
    set_here = [name for name in _OF_A_SERVER if getattr(settings, name) is not None]
    if set_here:
        raise ValueError(f"on Ray its proxies listen, not the replicas: leave out {', '.join(set_here)}")
    if settings.workers > 1:
        raise ValueError("on Ray each replica is one process: leave out workers, and give num_replicas")
    if not settings.is_remote and _most_replicas(options) != 1:
        raise ValueError(
            f"several replicas need a store that they share, and store={settings.store!r} is one for each of them: "
            "give the URL of a Redis, store='redis://HOST:6379/0', or num_replicas=1"
        )


def _most_replicas(options: Mapping[str, Any]) -> float:
    """The most replicas that Ray may start."""
    replicas = options.get("num_replicas") or 1
    scaling = options.get("autoscaling_config")
    if scaling is None:
        return float("inf") if replicas == "auto" else int(replicas)
    most = scaling.get("max_replicas") if isinstance(scaling, Mapping) else scaling.max_replicas
    return float(most or ("inf" if replicas == "auto" else 1))
