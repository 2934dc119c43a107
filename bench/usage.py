"""What a process has used so far: CPU time and memory, from /proc."""

import os
from pathlib import Path

from attrs import frozen

_TICKS_HZ = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@frozen
class Usage:
    """CPU time since its start, and the memory that it holds now."""

    cpu_s: float
    rss_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Return it for process *pid*."""
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
        return cls((int(fields[11]) + int(fields[12])) / _TICKS_HZ, pages * _PAGE_BYTES)

    @property
    def rss_mib(self) -> float:
        """The memory in MiB, to a tenth."""
        return round(self.rss_bytes / 2**20, 1)
