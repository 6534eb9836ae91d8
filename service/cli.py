"""The command `elman`."""

import contextlib
import gc
import json
import math
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError:
    sys.exit("elman: the command needs the server's packages: pip install 'elman[server]'")

app = typer.Typer(
    name="elman",
    help="Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root() -> None:
    """Serve recurrent networks: RNN, LSTM and GRU models exported to ONNX."""


@app.command()
def serve(
    models: Annotated[
        Path | None,
        typer.Argument(help="The model repository, <name>/<version>/model.onnx. [default: models/store]"),
    ] = None,
    host: Annotated[str, typer.Option(envvar="ELMAN_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="ELMAN_PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    max_batch: Annotated[int | None, typer.Option(help="Most sequences that one run advances.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Most unfinished sequences; then 503.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest request body, in bytes.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    access_log: Annotated[bool, typer.Option(help="Log every request.")] = False,
) -> None:
    """Serve a model repository over HTTP.

    Every setting can also be made in the environment: ELMAN_MODELS, ELMAN_MAX_BATCH, ELMAN_MAX_QUEUE and so on.
    """
    import uvicorn
    from pydantic import ValidationError

    from service.app import create_app
    from service.settings import Settings

    given: dict[str, Any] = {
        "models": models,
        "max_batch": max_batch,
        "max_queue": max_queue,
        "max_body": max_body,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        typer.secho(f"elman: {name}: {first['msg']}, got {first['input']!r}", fg="red", err=True)
        raise typer.Exit(2) from None
    if not settings.models.is_dir():
        typer.secho(f"elman: the model repository {str(settings.models)!r} is not a folder", fg="red", err=True)
        raise typer.Exit(2)
    _collect_less()
    # uvicorn raises the signal again once it has shut down; stopping when asked to is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    application = create_app(settings)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not ready from the first moment of stopping, so that what is cut off at its end is told why.
            application.state.server.ready = False
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level=log_level,
        access_log=access_log,
        # An open stream must not keep a stopping server alive.
        timeout_graceful_shutdown=max(1, math.ceil(settings.drain_timeout)),
        server_header=False,
        # No answer hangs on the client's address, so there is no header of a proxy to believe or not.
        proxy_headers=False,
    )
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise typer.Exit(3)


def _collect_less() -> None:
    """Look for cyclic garbage less often: a request makes many lists, none in a cycle, and the models never go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A model.onnx, a version's folder, or a model's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Say how a model file would be served, without serving it.

    Prints the spec that was found, how sequences of it may be batched and what was proved of it; or why it is
    refused, and what would mend it. Exits with 0 where the model can be served, with 1 where it is refused.
    """
    from service.errors import ModelRefused
    from service.report import describe, print_model, print_refusal, refusal_report
    from service.repository.loading import load_isolated
    from service.settings import Settings

    file = _model_file(path).resolve()
    version = int(file.parent.name) if file.parent.name.isdigit() else 1
    settings = Settings()
    try:
        model = load_isolated(
            file, file.parent.parent.name or "model", version, settings.load_timeout, settings.load_memory or None
        )
    except ModelRefused as refused:
        if as_json:
            typer.echo(json.dumps(refusal_report(refused)))
        else:
            print_refusal(file, refused)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(describe(model)))
    else:
        print_model(file, model)


@app.command()
def models(
    root: Annotated[Path | None, typer.Argument(help="The model repository. [default: models/store]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """List the models of a repository: what each is, and what is refused and why.

    Exits with 1 where a file is refused.
    """
    from service.report import describe, print_models, refusal_report
    from service.repository.repository import Repository
    from service.settings import Settings

    settings = Settings() if root is None else Settings(models=root)
    repository = Repository(settings.models, settings.load_timeout, settings.load_memory or None)
    try:
        repository.load()
    except FileNotFoundError as error:
        typer.secho(f"elman: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    if as_json:
        refused = [
            {"name": one.name, "version": one.version, **refusal_report(one.reason)} for one in repository.refusals
        ]
        typer.echo(json.dumps({"models": [describe(model) for model in repository], "refused": refused}))
    else:
        print_models(list(repository), repository.refusals)
    if repository.refusals:
        raise typer.Exit(1)


def _model_file(path: Path) -> Path:
    """The model.onnx that a path means: itself, in a version's folder, or in the highest version's folder."""
    if path.is_file():
        return path
    versions = [child for child in path.glob("*/model.onnx") if child.parent.name.isdigit()]
    candidates = [path / "model.onnx", *sorted(versions, key=lambda file: -int(file.parent.name))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    typer.secho(f"elman: there is no model.onnx at {path}", fg="red", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the command."""
    app()
