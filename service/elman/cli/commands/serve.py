"""`elman serve`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from elman.cli.commands.options import AllowAnyone, Host, Port
from elman.cli.exits import refuse
from elman.cores import given_cores, workers_for

LogLevel = Literal["trace", "debug", "info", "warning", "error", "critical"]


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
    api_keys_file: Annotated[Path | None, typer.Option(help="File of named API keys, as elman keys writes it.")] = None,
    admin_host: Annotated[
        str | None, typer.Option(envvar="ELMAN_ADMIN_HOST", help="Address of the admin port. [default: that of --host]")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Another port, for /metrics and for loading and unloading models.")
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate of the server, in PEM, for TLS.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key, if it is in a file of its own.")] = None,
    ssl_ca_certs: Annotated[
        Path | None, typer.Option(help="Authorities that clients need a certificate of, in PEM.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most sequences in one run of a model.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Most unfinished sequences; beyond it 503.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest request body, in bytes.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Number of server processes, or auto: one for each core. [default: 1; see docs/scale.md]"),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Store of the sessions: lmdb, memory, or the URL of a Redis.")
    ] = None,
    store_dir: Annotated[Path | None, typer.Option(help="Folder of the session store.")] = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="The least that is logged.")] = "info",
    access_log: Annotated[bool, typer.Option(help="Log every request.")] = False,
) -> None:
    """Serve models over HTTP.

    \b
    elman serve my-models
    elman serve tagger.onnx --name tagger
    elman serve my-models --host 0.0.0.0 --allow-anyone --workers 4
    elman serve my-models --store-dir /var/lib/elman
    elman serve my-models --host 0.0.0.0 --api-keys-file keys.json --ssl-certfile cert.pem --ssl-keyfile key.pem

    Every setting has an environment variable too: ELMAN_MODELS, ELMAN_MAX_BATCH, ELMAN_MAX_QUEUE and so on.
    """
    if models is None:
        raise refuse(
            "give what to serve: a folder of models, as in elman serve my-models, or a model file; "
            "elman demo serves models that come with Elman"
        )
    from elman.cli.jobs.given_settings import settings_from
    from elman.cli.jobs.model_files import repository_for
    from elman.cli.jobs.server import run_server

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
                "api_keys_file": api_keys_file,
                "admin_port": admin_port,
                "ssl_certfile": ssl_certfile,
                "ssl_keyfile": ssl_keyfile,
                "ssl_ca_certs": ssl_ca_certs,
            }
        )
        if "workers" not in settings.model_fields_set and settings.store != "memory":
            settings = settings.model_copy(update={"workers": workers_for(given_cores() or 1)})
        run_server(settings, host, port, log_level, access_log, admin_host=admin_host)
