"""When Python looks for garbage, in processes that start."""

import gc


def collect_rarely() -> None:
    """Look for cyclic garbage rarely. What is imported stays, and looking through it takes a sixth of a start."""
    gc.set_threshold(200_000)
