"""What every process does for itself."""

import gc

from omni.process import spare_the_loaded


def test_what_was_loaded_is_no_more_looked_at_by_the_collector() -> None:
    loaded = [[number] for number in range(1000)]
    try:
        spare_the_loaded()

        seen = {id(thing) for thing in gc.get_objects()}

        assert not seen & {id(thing) for thing in loaded}
    finally:
        gc.unfreeze()
