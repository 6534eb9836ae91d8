"""`elman demo`."""

from pathlib import Path

import typer

from elman.cli.commands.options import AllowAnyone, Host, Port

_MODELS = Path(__file__).parents[2] / "demo"
_EXAMPLE = """
Elman serves four small models on {address}
Open that page in a browser, or ask which language a surname comes from:

    curl {address}/v1/models/names-gru/predict -d '{{"sequence": "Lindqvist"}}'

Ctrl-C stops it.
"""


def demo(host: Host = "127.0.0.1", port: Port = 8000, allow_anyone: AllowAnyone = None) -> None:
    """Serve a few small models that come with Elman. Sessions are kept in memory.

    \b
    elman demo
    elman demo --port 0

    names-gru tells the language of a surname, names-lstm-generator writes surnames, vowels-gru tells who speaks,
    and sunspots-gru forecasts sunspots.
    """
    from elman.cli.jobs.given_settings import settings_from
    from elman.cli.jobs.server import run_server

    given = {"models": _MODELS, "workers": 1, "store": "memory", "poll": 0.0, "allow_anyone": allow_anyone}
    settings = settings_from(given)
    run_server(settings, host, port, "warning", on_start=lambda address: typer.echo(_EXAMPLE.format(address=address)))
