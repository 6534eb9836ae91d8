"""`elman sessions`."""

from typing import Annotated

import typer

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Timeout, Url, complete_names
from elman.cli.exits import refuse


def sessions(
    model: Annotated[str | None, typer.Option(help="Those of this model alone.", autocompletion=complete_names)] = None,
    delete: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Delete this session. May be given several times.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Delete all, or all of --model. On a terminal it asks first.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 60.0,
    as_json: AsJSON = False,
) -> None:
    """List the sessions on a server that the key owns, oldest first; or delete some.

    \b
    elman sessions
    elman sessions --model vowels-gru --json
    elman sessions --delete 01JADG3T5Y
    elman sessions --all --model vowels-gru

    Exit codes: 0 done; 1 there is no session of an id; 3 no server answers.
    """
    from elman.cli.jobs.listing import delete_all_sessions, delete_sessions, list_sessions

    if delete and (all_ or model):
        raise refuse("--delete names the sessions: give it without --all and --model")
    if delete:
        delete_sessions(url, api_key, timeout, delete, as_json)
    elif all_:
        delete_all_sessions(url, api_key, timeout, model, as_json)
    else:
        list_sessions(url, api_key, timeout, model, as_json)
