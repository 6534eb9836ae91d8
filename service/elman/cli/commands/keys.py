"""`elman keys`: the file of named API keys."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON
from elman.cli.exits import refuse
from elman.cli.extras import needs

keys = typer.Typer(
    help="""Make, list, replace and revoke named API keys.

    \b
    elman keys add alice --file keys.json --roles infer,sessions

    elman serve reads the file that ELMAN_API_KEYS_FILE names, and reads it again when it changes.
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)


File = Annotated[
    Path | None,
    typer.Option("--file", envvar="ELMAN_API_KEYS_FILE", help="The file of keys.", show_default=False),
]
Name = Annotated[str, typer.Argument(help="Name of whoever holds the key: letters, digits, dot, _ and -.")]


def _given(file: Path | None) -> Path:
    if file is None:
        raise refuse("give the file of keys: --file keys.json, or ELMAN_API_KEYS_FILE")
    return file


@keys.command(short_help="Make a key for a new name.")
@needs("server")
def add(
    name: Name,
    roles: Annotated[str, typer.Option(help="What it may do, of infer, sessions and admin, with commas.")],
    file: File = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: a date, a time with its offset, or days from now as in 90d.")
    ] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Most requests a second.")] = None,
    steps_per_second: Annotated[float | None, typer.Option(help="Most steps of sequences a second.")] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Most sessions at once.")] = None,
    existing: Annotated[
        bool,
        typer.Option("--existing", help="Take a key of ELMAN_API_KEYS, from standard input, with its sessions."),
    ] = False,
) -> None:
    """Make a key for a new name, print it once, and write its hash to the file. Makes the file if there is none.

    \b
    elman keys add alice --file keys.json --roles infer,sessions
    elman keys add nightly --file keys.json --roles infer --expires 90d --requests-per-second 5
    """
    from elman.cli.jobs.keys import add_key

    limits = {
        "requests_per_second": requests_per_second,
        "steps_per_second": steps_per_second,
        "max_sessions": max_sessions,
    }
    add_key(_given(file), name, roles, expires, limits, existing)


@keys.command("list", short_help="List the names.")
@needs("server")
def list_(file: File = None, as_json: AsJSON = False) -> None:
    """List the names in the file, with their roles, limits and expiry. Keys themselves are not in the file.

    \b
    elman keys list --file keys.json
    """
    from elman.cli.jobs.keys import list_keys

    list_keys(_given(file), as_json)


@keys.command(short_help="Make a further key for a name.")
@needs("server")
def rotate(name: Name, file: File = None) -> None:
    """Make a further key for a name, and print it once. The keys before it stay valid until they are revoked.

    \b
    elman keys rotate alice --file keys.json
    elman keys revoke alice --file keys.json --old
    """
    from elman.cli.jobs.keys import rotate_key

    rotate_key(_given(file), name)


@keys.command(short_help="Take keys away.")
@needs("server")
def revoke(
    name: Name,
    file: File = None,
    old: Annotated[bool, typer.Option("--old", help="All keys of the name but the newest.")] = False,
) -> None:
    """Take all keys of a name away, and the name with them. Its sessions stay until they expire.

    \b
    elman keys revoke alice --file keys.json
    """
    from elman.cli.jobs.keys import revoke_key

    revoke_key(_given(file), name, old)
