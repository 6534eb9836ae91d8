"""Settings of a server process: garbage collection, the allocator, open files, and silent peers."""

import contextlib
import ctypes
import gc
import logging
import socket

from elman.settings import Settings

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

# Parameters of glibc's mallopt: free memory kept at the end of the heap, and the block size from which mmap is used.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 2**20
_MAPPED_BYTES = 16 * 2**20
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
    needed = settings.max_connections + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            most = max(1, soft - _OWN_FILES, soft // 4)
            _LOG.warning("the process may open %d files: at most %d connections at once", soft, most)
            return settings.model_copy(update={"max_connections": most})
    return settings


def collect_less() -> None:
    """Collect cyclic garbage less often: requests make many lists without cycles, and models stay in memory."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


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
