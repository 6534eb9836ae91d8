"""`elman models`."""

from typing import Annotated

import typer

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Timeout, Url
from elman.cli.exits import refuse


def models(
    context: typer.Context,
    folder: Annotated[
        str | None,
        typer.Argument(envvar="ELMAN_MODELS", help="A folder of models; without one a server is asked."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 60.0,
    as_json: AsJSON = False,
) -> None:
    """List the models of a folder or of a server, and the files that are refused, with the reason.

    \b
    elman models my-models                          those of a folder, without a server
    elman models --url http://localhost:8000        those that a server serves

    Exit codes: 0 every model can be served; 1 a file is refused; 3 no server answers.
    """
    from elman.cli.jobs.listing import list_folder, list_served

    given = {name for name in ("folder", "url") if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    if folder is not None and "://" in folder:
        raise refuse(f"{folder!r} is the address of a server: elman models --url {folder}")
    if given == {"folder", "url"}:
        raise refuse("give a folder or --url, not both")
    if folder is None or given == {"url"}:
        list_served(url, api_key, timeout, as_json)
    else:
        list_folder(folder, as_json)
