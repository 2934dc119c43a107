"""Files that are whole or not there: what a crash must not leave half written."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write *data* to *path*, whose folder is made where it is missing; the old file or the new.

    Blocks: it waits until the disk has it. Raises: OSError, and leaves the old file as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with open(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(number)
        new.chmod(0o644)  # mkstemp makes files for their owner alone
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
