"""Programs that fork, join and wait."""

from typing import Any, cast

import pytest
from attrs import define, field

from omni.errors import ClientError
from omni.minicpmo.session import Session
from omni.minicpmo.strands import AnyStrand, AnyWork, Strands
from omni.minicpmo.work import Aside, Fork, Join, Program, Until, done


@define
class Desk:
    """Takes the work of a program and keeps it until the test answers it."""

    waiting: list[tuple[AnyStrand, AnyWork]] = field(factory=list)

    def take(self, strands: Strands, strand: AnyStrand, work: AnyWork) -> None:
        self.waiting.append((strand, work))

    def answer(self, strands: Strands, result: object) -> None:
        """Resume who waits longest."""
        strand, _ = self.waiting.pop(0)
        strands.resume(strand, result)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def strands(desk: Desk) -> Strands:
    # Strands only hold the session; nothing here looks into it.
    return Strands(cast(Session, None), desk.take)


def asks(log: list[Any]) -> Program[str]:
    answer = yield from done(Aside(call=lambda: ""))
    log.append(answer)
    return answer


def test_work_is_queued_and_its_result_resumes_the_program(strands: Strands, desk: Desk) -> None:
    log: list[Any] = []

    def program() -> Program[None]:
        yield from asks(log)

    strands.begin(program())
    assert (log, strands.is_over) == ([], False)
    desk.answer(strands, "result")

    assert (log, strands.is_over, strands.error) == (["result"], True, None)


def test_an_error_is_raised_where_the_program_waits(strands: Strands, desk: Desk) -> None:
    log: list[Any] = []

    def program() -> Program[None]:
        try:
            yield from asks(log)
        except ClientError as exc:
            log.append(str(exc))

    strands.begin(program())
    desk.answer(strands, ClientError("a bad picture"))

    assert log == ["a bad picture"]
    assert strands.error is None


def test_an_error_that_nobody_takes_ends_the_session(strands: Strands, desk: Desk) -> None:
    def program() -> Program[None]:
        yield from asks([])

    strands.begin(program())
    desk.answer(strands, error := ClientError("a bad picture"))

    assert strands.is_over
    assert strands.error is error


def test_a_fork_runs_beside_and_joins_with_its_result(strands: Strands, desk: Desk) -> None:
    log: list[Any] = []

    def program() -> Program[None]:
        strand = yield from done(Fork(program=asks([])))
        first = yield from asks([])
        second = yield from done(Join(strand=strand))
        log.extend([first, second])

    strands.begin(program())
    assert len(desk.waiting) == 2
    desk.waiting.reverse()
    desk.answer(strands, "own")
    desk.answer(strands, "forked")

    assert log == ["own", "forked"]
    assert strands.is_over


def test_joining_raises_what_the_fork_raised(strands: Strands, desk: Desk) -> None:
    log: list[Any] = []

    def program() -> Program[None]:
        strand = yield from done(Fork(program=asks([])))
        try:
            yield from done(Join(strand=strand))
        except ClientError as exc:
            log.append(str(exc))

    strands.begin(program())
    desk.answer(strands, ClientError("too long"))

    assert log == ["too long"]
    assert strands.error is None


def test_until_waits_for_its_condition(strands: Strands) -> None:
    log: list[str] = []
    doors: list[str] = []

    def program() -> Program[None]:
        yield from done(Until(holds=lambda: bool(doors)))
        log.append("open")

    strands.begin(program())
    strands.settle()
    assert not log
    doors.append("door")
    strands.settle()

    assert log == ["open"]


def test_closing_runs_the_programs_own_endings(strands: Strands, desk: Desk) -> None:
    log: list[str] = []

    def program() -> Program[None]:
        try:
            yield from asks([])
        finally:
            log.append("ended")

    strands.begin(program())
    strand, _ = desk.waiting[0]
    strands.close()
    strands.resume(strand, "too late")

    assert log == ["ended"]
