"""What a serving process does about garbage."""

import gc


def collect_less() -> None:
    """Look for cyclic garbage less often: a request makes many lists, none in a cycle, and the models never go."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
