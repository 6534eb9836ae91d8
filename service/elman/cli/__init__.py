"""The command `elman`: one module a group of commands, put together here."""

import sys

try:
    import typer
except ModuleNotFoundError:
    sys.exit("elman: the command needs the server's packages: pip install 'elman[server]'")

from elman.cli.commands.bench import bench
from elman.cli.commands.check import check, models
from elman.cli.commands.export import export, train
from elman.cli.commands.forecast import forecast
from elman.cli.commands.generate import generate
from elman.cli.commands.predict import predict
from elman.cli.commands.serve import serve

app = typer.Typer(
    name="elman",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Examples stand in the help as they are typed.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(short_help="Serve a folder of models over HTTP.")(serve)
app.command(short_help="List the models of a folder.")(models)
app.command(short_help="Say how a model file would be served.")(check)
app.command(short_help="Predict every sequence of a file.")(predict)
app.command(short_help="Carry on the series of a file.")(forecast)
app.command(short_help="Write on from a prompt.")(generate)
app.command(short_help="Measure a model on this machine.")(bench)
app.command(
    short_help="Train a shipped model again.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(train)
app.command(short_help="Export a torch module to ONNX.")(export)


@app.callback()
def root() -> None:
    """Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX.

    \b
    elman serve models/store                           serve the models of a folder
    elman predict names-gru names.txt                  ask a server about a file
    elman predict models/store/names-gru names.txt     or a model file, without a server
    elman check my-model                               how a file would be served, or why not

    \b
    Exit codes: 0 done; 1 the work failed or was refused; 2 the command was used wrongly;
    3 it cannot start; 130 interrupted. ELMAN_URL and ELMAN_API_KEY say which server, and with which key.
    """


def main() -> None:
    """Entry point of the command."""
    app()
