"""Work items -> batches on the runner: which phase each belongs to, and how its result is joined.

Where a batch fails, each of its jobs is tried alone, so that only those fail that are to blame.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from omni.errors import EngineDead, OmniError
from omni.minicpmo.runner import CODES_A_STEP, Runner, patches_of, pieces_of
from omni.minicpmo.scheduler import Phase, Scheduler, Share
from omni.minicpmo.session import Session
from omni.minicpmo.thinking import FeedShare
from omni.minicpmo.vocoding import Sounding
from omni.minicpmo.work import (
    Draw,
    EncodeAudio,
    EncodeImages,
    Fed,
    Feed,
    HearUnit,
    Ids,
    Speak,
    SpeakOn,
    Vocode,
    Work,
)

log = logging.getLogger(__name__)


@define(eq=False)
class Job:
    """One item of one session. key: whatever its owner wants to get back with the result."""

    session: Session
    work: Work[Any]  # its result has the type that the work says
    key: Any  # its owner's, opaque here
    partial: list[Any] = field(factory=list)  # results of the shares so far
    num_codes: int = 0  # of a speech call, given to earlier waits
    sound: Sounding | None = None

    @property
    def slot(self) -> int:
        """The index of the session's slot."""
        return self.session.slot.index


Result = tuple[Job, object]  # an exception where the job failed
Shares = Sequence[Share[Job]]


class Batches:
    """Queues jobs by phase and computes one batch of a phase at a time."""

    def __init__(self, runner: Runner, scheduler: Scheduler[Job]) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._sounds: list[Job] = []
        self._speaking: dict[int, Job] = {}  # slot -> who waits for its codes
        self._num_given: dict[int, int] = {}  # slot -> codes of its call that were given back

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something, or sound is on its way from the device."""
        return self._scheduler.has_work or bool(self._sounds or self._speaking)

    def add(self, job: Job) -> None:
        """Queue *job*."""
        phase, size = _place(job.work)
        self._scheduler.add(phase, job, job.session, size)

    def drop(self, session: Session) -> None:
        """Forget all jobs of *session*; what its slot has on its way is not given back."""
        self._scheduler.drop(session)
        self._sounds = [job for job in self._sounds if job.session is not session]
        self._speaking.pop(session.slot.index, None)
        self._num_given.pop(session.slot.index, None)

    def compute(self, phase: Phase) -> list[Result]:
        """Compute the next batch of *phase*; return the jobs that are done with it."""
        shares = self._scheduler.next_batch(phase)
        if phase is Phase.SPEAK:
            return self._speak(shares)
        if phase is Phase.VOCODE:
            self._vocode(shares)
            return self._take_sounds(must_wait=not self._scheduler.has_work and not self._speaking)
        if not shares:
            return []
        pairs = self._isolated(shares, self._computation(phase))
        for share, result in pairs:
            if isinstance(result, Exception) and not share.is_last:
                self._scheduler.remove(phase, share.job)
        return [pair for pair in map(_joined, pairs) if pair is not None]

    def _computation(self, phase: Phase) -> Callable[[Shares], Sequence[object]]:
        computations: dict[Phase, Callable[[Shares], Sequence[object]]] = {
            Phase.SEE: self._see,
            Phase.LISTEN: self._listen,
            Phase.HEAR: self._hear,
            Phase.PREFILL: self._prefill,
            Phase.DECODE: self._decode,
            Phase.DRAW: self._draw,
        }
        return computations[phase]

    def _isolated(
        self, shares: Shares, compute: Callable[[Shares], Sequence[object]]
    ) -> list[tuple[Share[Job], object]]:
        """Return each share with its result, or with the exception that concerns it alone."""
        try:
            return list(zip(shares, compute(shares), strict=True))
        except Exception as exc:
            if is_fatal(exc):
                raise EngineDead(f"the device failed: {exc}") from exc
            if len(shares) == 1:
                return [(shares[0], exc)]
            log.info("a batch of %d failed (%s): each is tried alone", len(shares), exc)
        return [pair for share in shares for pair in self._isolated([share], compute)]

    # --- one phase each: shares -> results in their order

    def _see(self, shares: Shares) -> list[Tensor]:
        patches, grids = [], []
        for share in shares:
            assert isinstance(share.job.work, EncodeImages)
            all_patches, all_grids = patches_of(share.job.work)
            patches += all_patches[share.start : share.start + share.count]
            grids += all_grids[share.start : share.start + share.count]
        embeds = self._runner.see(patches, grids)
        return list(embeds.split([share.count for share in shares]))

    def _listen(self, shares: Shares) -> list[list[Tensor]]:
        results: dict[int, list[Tensor]] = {}
        for sees_all in (False, True):
            pieces, owners = [], []
            for row, share in enumerate(shares):
                work = share.job.work
                assert isinstance(work, EncodeAudio)
                if work.sees_all is sees_all:
                    mine = [piece for recording in pieces_of(work) for piece in recording]
                    mine = mine[share.start : share.start + share.count]
                    pieces += mine
                    owners += [row] * len(mine)
            embeds = self._runner.listen(pieces, sees_all) if pieces else []
            for row, each in zip(owners, embeds, strict=True):
                results.setdefault(row, []).append(each)
        return [results.get(row, []) for row in range(len(shares))]

    def _hear(self, shares: Shares) -> list[Tensor]:
        return list(self._runner.hear([share.job.slot for share in shares]))

    def _prefill(self, shares: Shares) -> list[Fed]:
        feeds = []
        for share in shares:
            assert isinstance(share.job.work, Feed)
            if share.start == 0 and not share.is_last:
                self._check_room(share.job.slot, share.job.work)
            feeds.append(FeedShare(share.job.slot, share.job.work, share.start, share.count))
        return self._runner.thinking.prefill(feeds)

    def _check_room(self, slot: int, work: Feed) -> None:
        """Refuse a prompt of several shares before the first, if it cannot be fed to its end."""
        kv = self._runner.kv
        start = kv.length(slot) if work.start is None else work.start
        kv.table.check_room({slot: start + len(work)})

    def _decode(self, shares: Shares) -> list[Fed]:
        return self._runner.thinking.decode(
            [share.job.slot for share in shares], [_only_token(share.job.work) for share in shares]
        )

    def _draw(self, shares: Shares) -> Sequence[object]:
        works = []
        for share in shares:
            assert isinstance(share.job.work, Draw)
            works.append(share.job.work)
        return self._runner.thinking.draw(works, [share.job.session for share in shares])

    # --- speech: calls go on over many steps, and jobs join at any of them

    def _speak(self, shares: Shares) -> list[Result]:
        begun = [share for share in shares if isinstance(share.job.work, Speak)]
        results = self._begin_speech(begun)
        for share in shares:
            if isinstance(share.job.work, SpeakOn):
                self._speaking[share.job.slot] = share.job
        results += self._take_spoken()
        num_codes = CODES_A_STEP if self._scheduler.has_work else 2 * CODES_A_STEP
        while self._speaking and num_codes > 0:
            num_codes -= self._runner.speech.codes_a_step
            results += self._add_codes()
            results += self._take_spoken()
        return results

    def _begin_speech(self, shares: Shares) -> list[Result]:
        if not shares:
            return []
        failed: list[Result] = []
        for share, error in self._isolated(shares, self._start_calls):
            job = share.job
            if isinstance(error, Exception):
                failed.append((job, error))
            else:
                self._speaking[job.slot], self._num_given[job.slot] = job, 0
        return failed

    def _start_calls(self, shares: Shares) -> list[None]:
        works = [share.job.work for share in shares]
        speaks = [work for work in works if isinstance(work, Speak)]
        self._runner.begin_speech([share.job.slot for share in shares], speaks)
        return [None] * len(shares)

    def _add_codes(self) -> list[Result]:
        shares = [Share(job, 0, 1, True) for job in self._speaking.values()]
        failed: list[Result] = []
        for share, error in self._isolated(shares, self._step_calls):
            if isinstance(error, Exception):
                del self._speaking[share.job.slot]
                failed.append((share.job, error))
        return failed

    def _step_calls(self, shares: Shares) -> list[None]:
        self._runner.speak([share.job.slot for share in shares])
        return [None] * len(shares)

    def _take_spoken(self) -> list[Result]:
        results: list[Result] = []
        for slot, job in list(self._speaking.items()):
            assert isinstance(job.work, (Speak, SpeakOn))
            spoken = self._runner.spoken(slot, self._num_given[slot], job.work)
            if spoken is not None:
                self._num_given[slot] += len(spoken.codes)
                del self._speaking[slot]
                results.append((job, spoken))
        return results

    # --- sound: made beside the rest, taken when it is there

    def _vocode(self, shares: Shares) -> None:
        for share, result in self._isolated(shares, self._start_sounds) if shares else []:
            share.job.partial, share.job.sound = [result], None
            if isinstance(result, Sounding):
                share.job.sound = result
            self._sounds.append(share.job)

    def _start_sounds(self, shares: Shares) -> Sequence[object]:
        works = [share.job.work for share in shares]
        vocodes = [work for work in works if isinstance(work, Vocode)]
        return self._runner.vocoding.vocode([share.job.slot for share in shares], vocodes)

    def _take_sounds(self, must_wait: bool) -> list[Result]:
        """Return the jobs whose sound is there; must_wait: there is nothing else to do."""
        results: list[Result] = []
        rest: list[Job] = []
        for job in self._sounds:
            if job.sound is None:
                results.append((job, job.partial[0]))
            elif job.sound.is_there() or (must_wait and not results):
                results.append((job, job.sound.take()))
            else:
                rest.append(job)
        self._sounds = rest
        return results


def _place(work: Work[Any]) -> tuple[Phase, int]:
    """Return the phase of *work* and its size there."""
    match work:
        case EncodeImages(images=images):
            return Phase.SEE, sum(len(image.patches) for image in images)
        case EncodeAudio():
            return Phase.LISTEN, sum(len(pieces) for pieces in pieces_of(work))
        case HearUnit():
            return Phase.HEAR, 1
        case Feed():
            is_alone = len(work) == 1 and len(work.parts) == 1 and work.start is None
            is_token = is_alone and isinstance(work.parts[0], Ids)
            return (Phase.DECODE, 1) if is_token else (Phase.PREFILL, len(work))
        case Draw():
            return Phase.DRAW, 1
        case Speak() | SpeakOn():
            return Phase.SPEAK, 1
        case Vocode():
            return Phase.VOCODE, 1
    raise TypeError(f"no phase takes {type(work).__name__}")


def _only_token(work: Work[Any]) -> int:
    assert isinstance(work, Feed) and isinstance(work.parts[0], Ids)
    return work.parts[0].ids[0]


def _joined(pair: tuple[Share[Job], object]) -> Result | None:
    """Return the job with its whole result, once its last share was computed."""
    share, result = pair
    job = share.job
    if isinstance(result, Exception):
        return job, result
    job.partial.append(result)
    if not share.is_last:
        return None
    match job.work:
        case EncodeImages():
            return job, torch.cat(job.partial)
        case EncodeAudio():
            return job, _recordings(job.work, [each for part in job.partial for each in part])
        case _:
            return job, job.partial[-1]


def _recordings(work: EncodeAudio, pieces: Iterable[Tensor]) -> list[Tensor]:
    """Return one tensor a recording of its *pieces*."""
    rest = iter(pieces)
    return [torch.cat([next(rest) for _ in recording]) for recording in pieces_of(work)]


def is_fatal(exc: Exception) -> bool:
    """Say whether the device is lost: whatever runs on it next fails as well."""
    if isinstance(exc, (OmniError, torch.OutOfMemoryError)):
        return False
    return isinstance(exc, torch.AcceleratorError) or "CUDA error" in str(exc)
