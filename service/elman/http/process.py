"""Settings of a server process: garbage collection, threads, the allocator, open files, and silent peers."""

import contextlib
import ctypes
import gc
import logging
import socket
import sys

from elman.settings import Settings

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

# Parameters of glibc's mallopt: free memory kept at the end of the heap, and the block size from which mmap is used.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 2**20
_MAPPED_BYTES = 16 * 2**20
# Seconds after which a thread lets another have the interpreter: the default, and with several callers.
_SWITCH_SECONDS, _SWITCH_SOON_SECONDS = sys.getswitchinterval(), 0.5e-3
# Files that a server opens beside its connections: models, the store, pipes to its children, connections that are
# closed at once.
_OWN_FILES = 256

_LOG = logging.getLogger("elman")


def within_descriptors(settings: Settings) -> Settings:
    """Let the process open as many files as its connections need, as far as the system allows.

    Returns the settings with the number of connections for which the files suffice. An accept that fails for want of a
    file would stop all others too.
    """
    if resource is None:
        return settings
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_kinds = 1 if settings.grpc_port is None else 2  # HTTP and gRPC count their connections apart
    needed = num_kinds * settings.max_connections + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            most = max(1, max(soft - _OWN_FILES, soft // 4) // num_kinds)
            _LOG.warning("the process may open %d files: at most %d connections of each kind at once", soft, most)
            return settings.model_copy(update={"max_connections": most})
    return settings


def collect_less() -> None:
    """Collect cyclic garbage less often: requests make many lists without cycles, and models stay in memory.

    Before Python 3.14, which collects in small steps, the first two generations are collected while they are small. All
    threads wait for that: 3 ms with 15,000 objects, 70 ms with 400,000.
    """
    gc.freeze()  # with what little garbage there is: to look for it takes longer than it is worth
    gc.set_threshold(*((10_000, 2, 1_000) if sys.version_info < (3, 14) else (20_000, 20, 50)))


def switch_soon(several: bool) -> None:
    """With several callers, let threads take turns each half millisecond, where by default they wait for 5 ms."""
    sys.setswitchinterval(_SWITCH_SOON_SECONDS if several else _SWITCH_SECONDS)


def keep_memory() -> None:
    """Let the allocator keep some free megabytes for the next large body (glibc).

    Memory that is returned to the kernel comes back page by page, which takes several times as long as reading a body.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)


def drop_silent_peers(listening: socket.socket, timeout: float) -> None:
    """Let the kernel drop connections whose peer acknowledges nothing for `timeout` seconds (Linux).

    Accepted connections inherit the option from the listening socket. Without it, a closed connection with unsent data
    would stay for ever if the client never reads.
    """
    with contextlib.suppress(OSError, AttributeError):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1e3)))
