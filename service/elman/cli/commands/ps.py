"""`elman ps`."""

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Timeout, Url


def ps(url: Url = DEFAULT_URL, api_key: Key = None, timeout: Timeout = 60.0, as_json: AsJSON = False) -> None:
    """Say what a server is doing: what waits in its engine, and what each model has run since it was loaded.

    \b
    elman ps
    elman ps --url http://localhost:8000 --json

    Of several workers one answers, and the figures are its own; those of all are at /metrics.
    """
    from elman.cli.jobs.listing import list_running

    list_running(url, api_key, timeout, as_json)
