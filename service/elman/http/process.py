"""What a serving process does about garbage and free memory, and about peers that say nothing."""

import contextlib
import ctypes
import gc
import socket

# Of glibc's mallopt: the free memory at the end of the heap that is kept, and the size from which a block is mapped.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 2**20
_MAPPED_BYTES = 16 * 2**20


def collect_less() -> None:
    """Look for cyclic garbage less often: a request makes many lists, none in a cycle, and the models never go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def keep_memory() -> None:
    """Have the allocator keep some megabytes that are free, and not ask for them again with each large body (glibc).

    What is given back and asked for again comes page by page, which takes several times what reading the body does.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)


def drop_silent_peers(listening: socket.socket, timeout: float) -> None:
    """Have the kernel give up connections whose peer takes nothing for `timeout` seconds (Linux).

    What a listening socket is set to, the connections that it accepts are too. Without it a connection that is closed
    with something left to send to a client that never reads is held for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1e3)))
