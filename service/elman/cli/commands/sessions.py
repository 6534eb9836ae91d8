"""`elman sessions`."""

from typing import Annotated

import typer

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Timeout, Url, complete_names


def sessions(
    model: Annotated[str | None, typer.Option(help="Those of this model alone.", autocompletion=complete_names)] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 60.0,
    as_json: AsJSON = False,
) -> None:
    """List the sessions on a server that the key owns, oldest first.

    \b
    elman sessions
    elman sessions --model vowels-gru --json
    """
    from elman.cli.jobs.listing import list_sessions

    list_sessions(url, api_key, timeout, model, as_json)
