"""What a serving process does about garbage, and about peers that say nothing."""

import contextlib
import gc
import socket


def collect_less() -> None:
    """Look for cyclic garbage less often: a request makes many lists, none in a cycle, and the models never go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def drop_silent_peers(listening: socket.socket, timeout: float) -> None:
    """Have the kernel give up connections whose peer takes nothing for `timeout` seconds (Linux).

    What a listening socket is set to, the connections that it accepts are too. Without it a connection that is closed
    with something left to send to a client that never reads is held for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout * 1e3)))
