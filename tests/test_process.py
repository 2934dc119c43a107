"""What every process does for itself."""

import gc
import resource

from omni.process import allow_many_files, spare_the_loaded


def test_what_was_loaded_is_no_more_looked_at_by_the_collector() -> None:
    loaded = [[number] for number in range(1000)]
    try:
        spare_the_loaded()

        seen = {id(thing) for thing in gc.get_objects()}

        assert not seen & {id(thing) for thing in loaded}
    finally:
        gc.unfreeze()


def test_a_process_may_open_as_many_files_as_its_hard_limit_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))

        allow_many_files()

        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65_536), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
