"""The command `elman`. Its commands are in `commands`, one file each; what they run is in `jobs`.

Importing this needs nothing but typer. Each command imports its job when it is called.
"""

from typing import Annotated

import typer

from elman import __version__
from elman.cli.commands.bench import bench
from elman.cli.commands.check import check
from elman.cli.commands.demo import demo
from elman.cli.commands.export import export
from elman.cli.commands.forecast import forecast
from elman.cli.commands.generate import generate
from elman.cli.commands.keys import keys
from elman.cli.commands.models import models
from elman.cli.commands.predict import predict
from elman.cli.commands.ps import ps
from elman.cli.commands.serve import serve
from elman.cli.commands.sessions import sessions
from elman.cli.commands.show import show
from elman.cli.exits import Commands, prepare_standard_streams
from elman.cli.extras import needs
from elman.cli.garbage import collect_rarely

app = typer.Typer(
    name="elman",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Examples in the help stay as they are typed.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(short_help="Serve models over HTTP.")(needs("server")(serve))
app.command(short_help="Serve a few models that come with Elman.")(needs("server")(demo))
app.command(short_help="List the models of a folder or a server.")(needs("server")(models))
app.command(short_help="Show what a model takes and answers.")(needs("server")(show))
app.command(short_help="Say how a model would be served.")(needs("server")(check))
app.command(short_help="Predict every sequence of a file.")(needs("server")(predict))
app.command(short_help="Forecast the series of a file.")(needs("server")(forecast))
app.command(short_help="Generate text from a prompt.")(needs("server")(generate))
app.command(short_help="List or delete the sessions on a server.")(needs("server")(sessions))
app.command(short_help="Say what a server is doing.")(needs("server")(ps))
app.command(short_help="Measure a model on this machine.")(needs("server")(bench))
app.command(short_help="Export a torch module to ONNX.")(needs("train")(export))
app.add_typer(keys, name="keys", short_help="Make and revoke API keys.")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"elman {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX.

    \b
    elman demo                                try it with models that come with Elman
    elman serve my-models                     serve the models of a folder
    elman predict names-gru names.txt         ask a server about a file
    elman predict ./my-model names.txt        use a model file, without a server
    elman check my-model                      how a model would be served, or why it is refused
    elman models --url http://localhost:8000  what a server serves; also elman show, sessions and ps

    \b
    Exit codes: 0 done; 1 the work failed or was refused; 2 the command was used wrongly;
    3 it cannot start; 130 interrupted.
    ELMAN_URL and ELMAN_API_KEY name the server and the key to send to it.
    """


def main() -> None:
    """Run the command."""
    collect_rarely()
    prepare_standard_streams()
    app()
