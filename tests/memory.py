"""Memory that models have taken in the tests' own process goes back when their tests are done."""

import ctypes
import gc


def give_back() -> None:
    """Free what is left of closed engines: they are in cycles, and in pieces of the heap.

    All tests run in one process. A collection of everything would come by itself only after many
    more objects, and never for what a bench has frozen.
    """
    gc.unfreeze()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
