"""The MiniCPM-o engine: moves the programs of all sessions, and computes their work in batches.

`step` takes what arrived, then goes once through the phases (see, listen, hear, prefill, decode,
draw, speak, vocode). Each phase takes one bounded batch of all sessions' work and resumes the
programs that it served, whose next work may be in a later phase of the same step.
"""

import logging
import time
from collections.abc import Callable, Sequence
from random import Random

import torch

from omni.engine import (
    Arrival,
    AudioChunk,
    Capabilities,
    Close,
    Emission,
    Failed,
    Opening,
    PrepareHalfDuplex,
    SessionEvent,
    SessionInput,
    Slot,
    StopAnswer,
)
from omni.errors import CapacityError, ClientError, EngineDead, GenerationFailed, OmniError
from omni.minicpmo import IMPORT_BEGUN_S
from omni.minicpmo.background import Background
from omni.minicpmo.batches import Batches, Job, is_fatal
from omni.minicpmo.compiled import compile_no_more
from omni.minicpmo.load_times import LoadTimes
from omni.minicpmo.modes import MODES, program_of
from omni.minicpmo.scheduler import Phase, Scheduler
from omni.minicpmo.session import Session
from omni.minicpmo.setup import EngineOptions, Loaded, load_model
from omni.minicpmo.strands import AnyStrand, AnyWork, Strands
from omni.minicpmo.warm_up import warm_up
from omni.minicpmo.work import Aside
from omni.settings import Settings

log = logging.getLogger(__name__)

_MIN_CHUNK_MS = 1000  # a unit is one second, by training
_Key = tuple[Strands, AnyStrand]
_IMPORTS_S = time.monotonic() - IMPORT_BEGUN_S


class MiniCPMOEngine:
    """Meets `omni.engine.Engine`."""

    load_times: LoadTimes  # once it is loaded

    def __init__(
        self,
        settings: Settings,
        options: EngineOptions = EngineOptions(),
        load: Callable[[Settings, EngineOptions], Loaded] = load_model,
    ) -> None:
        self._settings = settings
        self._options = options
        self._load = load
        self._tenants: dict[int, Strands] = {}
        self._emissions: list[Emission] = []
        self._loaded: Loaded | None = None
        self._batches: Batches | None = None
        self._background: Background[_Key] | None = None

    @torch.inference_mode()
    def load(self, wake: Callable[[], None]) -> Capabilities:
        """Load the checkpoint, size the caches by the memory that is free, capture the graphs."""
        begun_s = time.monotonic()
        self._loaded = self._load(self._settings, self._options)
        loaded_s = time.monotonic()
        self._batches = Batches(self._loaded.runner, Scheduler(self._options.limits))
        self._background = Background(wake)
        has_gpu = self._loaded.runner.device.type == "cuda"
        if has_gpu or self._settings.service.compile:
            warm_up(self)
        if self._settings.service.compile:
            compile_no_more()
        if has_gpu:
            torch.cuda.synchronize()
        capture_s = self._loaded.capture_s
        self.load_times = LoadTimes(
            imports_s=_IMPORTS_S,
            load_s=loaded_s - begun_s - capture_s,
            capture_s=capture_s,
            warm_up_s=time.monotonic() - loaded_s,
            stages=self._loaded.stages,
        )
        log.info("the model is ready: %s", self.load_times)
        return Capabilities(
            engine="minicpmo",
            model=self._loaded.name,
            modes=MODES,
            num_slots=self._loaded.runner.sizes.num_slots,
            vision=True,
            reads_aloud=True,
            writes_down=True,
            calls_tools=self._loaded.around.prompts.takes_tools,
            languages=("en", "zh"),
            min_chunk_ms=_MIN_CHUNK_MS,
        )

    @property
    def loaded(self) -> Loaded:
        """The model and its caches, for tests and benches; `load` comes first."""
        assert self._loaded is not None
        return self._loaded

    @torch.inference_mode()
    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Take *arrivals* and what was done beside, then compute one batch of each phase."""
        for arrival in arrivals:
            self._take(arrival.slot, arrival.input)
        self._take_background()
        self._settle()
        for phase in Phase:
            self._compute(phase)
        self._settle()
        emissions, self._emissions = self._emissions, []
        return emissions

    @property
    def busy(self) -> bool:
        """True while a batch waits, or sound is on its way from the device."""
        return self._batches is not None and self._batches.has_work

    def close(self) -> None:
        """Stop background work and free everything."""
        if self._background is not None:
            self._background.close()
        for index in list(self._tenants):
            self._end(index)
        self._loaded = self._batches = self._background = None

    # --- inputs

    def _take(self, slot: Slot, message: SessionInput) -> None:
        tenant = self._tenants.get(slot.index)
        if tenant is not None and slot.generation < tenant.session.slot.generation:
            return
        if isinstance(message, Opening):
            self._end(slot.index)
            self._open(slot, message)
            return
        match message:
            case Close():
                self._end(slot.index)
            case AudioChunk() | StopAnswer() if tenant is None or tenant.session.slot != slot:
                self._fail(slot, ClientError("no session is open in this slot"), fatal=False)
            case AudioChunk():
                tenant.session.put(message)
            case StopAnswer():
                tenant.session.is_stopped = True

    def _open(self, slot: Slot, opening: Opening) -> None:
        runner = self.loaded.runner
        if not 0 <= slot.index < runner.sizes.num_slots:
            text = f"there is no slot {slot.index}: {runner.sizes.num_slots} are there"
            self._fail(slot, CapacityError(text), fatal=True)
            return
        seed = None if isinstance(opening, PrepareHalfDuplex) else opening.seed
        session = Session(slot, self.loaded.around, runner, Random(seed))
        try:
            program = program_of(session, opening)
        except OmniError as exc:
            self._fail(slot, exc, fatal=True)
            return
        tenant = self._tenants[slot.index] = Strands(session, self._queue)
        tenant.begin(program)
        self._gather(tenant)

    def _end(self, index: int) -> None:
        """End the session in slot *index*, if there is one; nothing of it stays behind."""
        tenant = self._tenants.pop(index, None)
        if tenant is None:
            return
        assert self._batches is not None
        self._batches.drop(tenant.session)
        tenant.close()
        self.loaded.runner.release(index)

    # --- work

    def _queue(self, tenant: Strands, strand: AnyStrand, work: AnyWork) -> None:
        assert self._batches is not None and self._background is not None
        if isinstance(work, Aside):
            self._background.submit(work, (tenant, strand))
        else:
            self._batches.add(Job(tenant.session, work, (tenant, strand)))

    def _compute(self, phase: Phase) -> None:
        assert self._batches is not None
        for job, result in self._batches.compute(phase):
            tenant, strand = job.key
            self._resume(tenant, strand, result)

    def _take_background(self) -> None:
        assert self._background is not None
        for (tenant, strand), result in self._background.finished():
            self._resume(tenant, strand, result)

    def _settle(self) -> None:
        for tenant in list(self._tenants.values()):
            tenant.settle()
            self._gather(tenant)

    def _resume(self, tenant: Strands, strand: AnyStrand, result: object) -> None:
        if not tenant.is_over:  # a session may end while its work is on its way
            tenant.resume(strand, result)
            self._gather(tenant)

    def _gather(self, tenant: Strands) -> None:
        """Take the session's new events; when it is over, free its slot."""
        slot = tenant.session.slot
        events, tenant.session.events = tenant.session.events, []
        for event in events:
            self._emit(slot, event)
        if tenant.is_over and self._tenants.get(slot.index) is tenant:
            self._end(slot.index)
            if tenant.error is not None:
                self._fail(slot, _explained(tenant.error, slot), fatal=True)

    def _emit(self, slot: Slot, event: SessionEvent) -> None:
        self._emissions.append(Emission(slot, event))

    def _fail(self, slot: Slot, error: OmniError, fatal: bool) -> None:
        self._emit(slot, Failed(code=error.code, message=str(error), fatal=fatal))


def _explained(error: Exception, slot: Slot) -> OmniError:
    """Return what a session is told about the error that ended it."""
    if isinstance(error, EngineDead) or is_fatal(error):
        raise EngineDead(f"the device failed: {error}") from error
    if isinstance(error, OmniError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        log.warning("the GPU's memory was short for the session in slot %s: %s", slot.index, error)
        return CapacityError(
            "the GPU's memory is short at this moment: try again, or have fewer sessions "
            "(fabric.slots)"
        )
    log.error("the session in slot %s failed", slot.index, exc_info=error)
    return GenerationFailed("the engine failed in this session; it ended")
