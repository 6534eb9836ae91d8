"""`elman ps`."""

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Timeout, Url


def ps(url: Url = DEFAULT_URL, api_key: Key = None, timeout: Timeout = 60.0, as_json: AsJSON = False) -> None:
    """Say what a server is doing: what waits in its engine, and what each model has run since it was loaded.

    \b
    elman ps
    elman ps --url http://localhost:8000 --json

    Of several workers the figures are summed, and what each does is listed.
    """
    from elman.cli.jobs.listing import list_running

    list_running(url, api_key, timeout, as_json)
