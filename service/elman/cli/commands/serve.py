"""`elman serve`."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AllowAnyone, Host, Port
from elman.cli.exits import refuse


def serve(
    models: Annotated[
        Path | None,
        typer.Argument(
            envvar="ELMAN_MODELS",
            help="A folder of models, <name>/<version>/model.onnx. Or a single model: a file .onnx, or a folder with "
            "model.onnx or 1/model.onnx.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of a single model. [default: that of its folder or file]")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_anyone: AllowAnyone = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of gRPC; 0 for any that is free. Needs the extra grpc.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most sequences in one run of a model.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Most unfinished sequences; beyond it 503.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest request body, in bytes.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of server processes.")] = None,
    store: Annotated[str | None, typer.Option(help="Store of the sessions: lmdb or memory.")] = None,
    store_dir: Annotated[Path | None, typer.Option(help="Folder of the session store.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    access_log: Annotated[bool, typer.Option(help="Log every request.")] = False,
) -> None:
    """Serve models over HTTP.

    \b
    elman serve my-models
    elman serve tagger.onnx --name tagger
    elman serve my-models --host 0.0.0.0 --allow-anyone --workers 4
    elman serve my-models --store-dir /var/lib/elman

    Every setting has an environment variable too: ELMAN_MODELS, ELMAN_MAX_BATCH, ELMAN_MAX_QUEUE and so on.
    """
    if models is None:
        raise refuse(
            "give what to serve: a folder of models, as in elman serve my-models, or a model file; "
            "elman demo serves models that come with Elman"
        )
    from elman.cli.jobs.model_files import repository_for
    from elman.cli.jobs.server import run_server, settings_from

    with repository_for(models, name) as root:
        settings = settings_from(
            {
                "models": root,
                "max_batch": max_batch,
                "max_queue": max_queue,
                "max_body": max_body,
                "workers": workers,
                "store": store,
                "store_dir": store_dir,
                "allow_anyone": allow_anyone,
                "grpc_port": grpc_port,
            }
        )
        run_server(settings, host, port, log_level, access_log)
