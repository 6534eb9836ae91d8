"""The command `elman`: one module a group of commands, put together here."""

import sys

try:
    import typer
except ModuleNotFoundError:
    sys.exit("elman: the command needs the server's packages: pip install 'elman[server]'")

from service.cli.checking import check, models
from service.cli.forecasting import forecast
from service.cli.generating import generate
from service.cli.predicting import predict
from service.cli.serving import serve

app = typer.Typer(
    name="elman",
    help="Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Examples stand in the help as they are typed.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (serve, models, check, predict, forecast, generate):
    app.command()(command)


@app.callback()
def root() -> None:
    """Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX."""


def main() -> None:
    """Entry point of the command."""
    app()
