"""Settings of a server process: garbage collection, the allocator, and silent peers."""

import contextlib
import ctypes
import gc
import socket

# Parameters of glibc's mallopt: free memory kept at the end of the heap, and the block size from which mmap is used.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 2**20
_MAPPED_BYTES = 16 * 2**20


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
