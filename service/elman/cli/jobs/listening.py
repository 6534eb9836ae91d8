"""The sockets that a server listens on, and its TLS certificate."""

import logging
import socket
import ssl
import sys
from typing import Any

import uvicorn

from elman.cli.exits import CANNOT_START, refuse
from elman.settings import Settings

_LOG = logging.getLogger("uvicorn.error")


def tls_options(settings: Settings) -> dict[str, Any]:
    """The options of `uvicorn.Config` for TLS; none without a certificate. Exits if the files cannot be used."""
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile is not None or settings.ssl_ca_certs is not None:
            raise refuse("ssl_keyfile and ssl_ca_certs need ssl_certfile, the certificate of the server")
        return {}
    options: dict[str, Any] = {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        # Without one, OpenSSL would ask at the terminal.
        "ssl_keyfile_password": settings.ssl_keyfile_password or "",
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_certificate(context, options)
        if settings.ssl_ca_certs is not None:
            context.load_verify_locations(cadata=settings.ssl_ca_certs.read_text("ascii"))
            options |= {"ssl_ca_certs": settings.ssl_ca_certs, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    except (OSError, ValueError) as error:  # those of OpenSSL are OSErrors
        raise refuse(f"the certificate, its key or the authorities cannot be used: {_reason(error)}") from None
    return options


def load_certificate(context: ssl.SSLContext, options: dict[str, Any]) -> None:
    """Read a certificate and its key, for the connections from now on. Raises OSError."""
    for path in filter(None, (options["ssl_certfile"], options["ssl_keyfile"])):
        with open(path, "rb"):  # OpenSSL does not say which file is not there
            pass
    context.load_cert_chain(options["ssl_certfile"], options["ssl_keyfile"], options["ssl_keyfile_password"])


def reload_certificate(context: ssl.SSLContext, options: dict[str, Any]) -> None:
    """Read them again for a context that is in use. If they cannot be used, the ones before stay."""
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), options)
        load_certificate(context, options)
        _LOG.info("The certificate is read again")
    except OSError as error:
        _LOG.error("The certificate before stays in use, since the new one cannot be: %s", _reason(error))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def listening_sockets(
    settings: Settings, options: dict[str, Any], admin_host: str
) -> tuple[list[socket.socket], Settings]:
    """Bind the port of `options`, and the admin port if there is one. Exits with 3 if one is taken.

    Returns the sockets, which do not listen yet, and the settings with the number of the admin port.
    """
    config = uvicorn.Config("", **options)
    sockets = [config.bind_socket()]
    if settings.admin_port is not None:
        admin = socket.socket(socket.AF_INET6 if ":" in admin_host else socket.AF_INET)
        admin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            admin.bind((admin_host, settings.admin_port))
        except OSError as error:
            _LOG.error("the admin port: %s", error)
            sys.exit(CANNOT_START)
        admin.set_inheritable(True)
        number = admin.getsockname()[1]
        if number == sockets[0].getsockname()[1]:
            raise refuse("the admin port must be another than the port")
        scheme, host = "https" if config.is_ssl else "http", f"[{admin_host}]" if ":" in admin_host else admin_host
        _LOG.info("Metrics and admin routes on %s://%s:%d", scheme, host, number)
        sockets.append(admin)
        settings = settings.model_copy(update={"admin_port": number})
    return sockets, settings
