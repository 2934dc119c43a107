"""Where the time of a start goes: its stages, some of which run beside one another."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, field, frozen


@frozen
class Stage:
    """A part of loading. begun_s: since loading began."""

    name: str
    begun_s: float
    took_s: float


@define(eq=False)
class Stopwatch:
    """Notes stages, from any thread."""

    begun_s: float = field(factory=time.monotonic)
    stages: list[Stage] = field(factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long the block took, also when it failed."""
        begun_s = time.monotonic()
        try:
            yield
        finally:
            took_s = time.monotonic() - begun_s
            self.stages.append(Stage(name, begun_s - self.begun_s, took_s))


@frozen(kw_only=True)
class LoadTimes:
    """How long a start took, in seconds.

    imports_s: until the engine's modules were imported, torch among them. load_s: the weights, the
    other files, the caches. stages: of load_s; what runs beside the weights overlaps them.
    """

    imports_s: float
    load_s: float
    capture_s: float
    warm_up_s: float
    stages: tuple[Stage, ...]

    @property
    def ready_s(self) -> float:
        """From imported to ready."""
        return self.load_s + self.capture_s + self.warm_up_s

    def __str__(self) -> str:
        ordered = sorted(self.stages, key=lambda stage: stage.begun_s)
        parts = ", ".join(f"{stage.name} {stage.took_s:.1f}" for stage in ordered)
        return (
            f"imported in {self.imports_s:.1f} s, loaded in {self.load_s:.1f} s ({parts}), "
            f"steps recorded in {self.capture_s:.1f} s, warmed up in {self.warm_up_s:.1f} s"
        )
