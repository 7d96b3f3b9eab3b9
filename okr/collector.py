"""Python's garbage collector in a process that imports torch."""

import atexit
import gc


def spare() -> None:
    """Look less often through the million objects that importing torch and transformers makes and that all stay, and
    not once more on leaving. (`okr discover tiny` on two Xeon cores: 3.0 s instead of 3.9.)"""
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)
