"""The sockets that a server listens on, and its TLS certificate."""

import errno
import logging
import socket
import ssl
from typing import Any

import typer
import uvicorn

from elman.cli.exits import CANNOT_START, refuse
from elman.settings import Settings

_TCP = socket.SOCK_STREAM
# A name such as localhost often has an address of IPv6, also where that is off.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

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
    config = uvicorn.Config("", **options)  # which makes its log ready
    sockets = bind(options["host"], options["port"])
    if settings.admin_port is not None:
        admin = bind(admin_host, settings.admin_port)
        number = admin[0].getsockname()[1]
        if number == sockets[0].getsockname()[1]:
            raise refuse("the admin port must be another than the port")
        scheme, host = "https" if config.is_ssl else "http", f"[{admin_host}]" if ":" in admin_host else admin_host
        _LOG.info("Metrics and admin routes on %s://%s:%d", scheme, host, number)
        sockets += admin
        settings = settings.model_copy(update={"admin_port": number})
    return sockets, settings


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to each address of a host. Port 0 is the same free port at all. Exits with 3 if one is taken."""
    sockets: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, "it has no address")
    try:
        for family, _, _, _, address in socket.getaddrinfo(host or None, port, type=_TCP, flags=socket.AI_PASSIVE):
            number = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bind_one(family, (address[0], number, *address[2:])))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if not sockets:
            raise absent
    except OSError as error:
        for one in sockets:
            one.close()
        raise _not_listening("the server", host, port, error) from None
    return sockets


def _bind_one(family: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, _TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address[0] != "::":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.set_inheritable(True)
    except OSError:
        one.close()
        raise
    return one


def hold_port(host: str, port: int) -> socket.socket:
    """Take a port on which each worker will listen by itself (SO_REUSEPORT). Exits with 3 if it is taken.

    The socket that is returned does not listen, so that it gets no connection. It keeps others off the port: a server
    that was started twice would share the connections with the first one.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        with socket.socket(family, kind) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        held = socket.socket(family, kind)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise _not_listening("gRPC", host, port, error) from None
    return held


def _not_listening(what: str, host: str, port: int, error: OSError) -> typer.Exit:
    """Say that a port cannot be taken. Returns the exception to raise."""
    reason = (error.strerror or str(error)).lower()
    advice = "; another program may use it: choose another port, or 0 for any that is free"
    return refuse(
        f"{what} cannot listen on {host}, port {port}: {reason}{advice if error.errno == errno.EADDRINUSE else ''}",
        CANNOT_START,
    )
