"""An answer that loses its worker before it says anything is asked once more, and only then."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import pytest
from attrs import define, field

from omni.engine import (
    EMPTY,
    AudioChunk,
    Buffer,
    Capabilities,
    ChatRequest,
    Failed,
    ReplyChunk,
    SessionEvent,
    StopAnswer,
)
from omni.errors import QueueFull
from omni.link import BrokerLink, open_link
from omni.realtime.openai.answers import MAX_ANSWERS, Answer, Answers
from omni.realtime.openai.call_record import CallRecord
from omni.realtime.openai.conversation import Conversation
from omni.realtime.openai.events import ServerEvent
from omni.realtime.openai.items import Message, Text
from omni.realtime.openai.response import Response
from omni.realtime.openai.slots import Slots
from omni.recording.recorder import NoRecording
from omni.settings import FabricSettings, RealtimeSettings
from tests.conftest import status_of
from tests.fabric import EchoWorker, broker_thread, fabric
from tests.fakes import TIMEOUT_S

__all__ = ["fabric"]


class DyingWorker(EchoWorker):
    """Answers with *words* and no end, and hangs then: it is lost when its beats are missed."""

    words: tuple[str, ...] = ()

    def _answer(
        self, message: AudioChunk | ChatRequest | StopAnswer | Failed
    ) -> Sequence[SessionEvent]:
        self.hangs = True
        return [ReplyChunk(text=word) for word in self.words]


@define(eq=False)
class Told:
    """A session that only notes what its answers tell."""

    events: list[ServerEvent] = field(factory=list)
    is_over: asyncio.Event = field(factory=asyncio.Event)

    async def tell(self, events: Sequence[ServerEvent]) -> None:
        self.events += events

    async def met(self, answer: Answer, capabilities: Capabilities) -> None:
        pass

    async def transcribed(self, item: Message, text: str) -> None:
        pass

    async def over(self, answer: Answer) -> None:
        self.is_over.set()

    async def turned_away(self, error: QueueFull) -> None:
        pass

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def last_response(self) -> dict[str, object]:
        assert self.events[-1].kind == "response.done"
        response = self.events[-1].fields["response"]
        assert isinstance(response, dict)
        return response


async def no_voice(name: str) -> Buffer:
    return EMPTY


def an_answer() -> Answer:
    conversation = Conversation(max_items=10, max_bytes=1000)
    question = Message(id="item_1", role="user", content=[Text("one")])
    conversation.add(question)
    response = Response(
        modality="text",
        output_format="audio/pcm",
        voice="",
        max_output_tokens=None,
        conversation=conversation,
    )
    return Answer(response=response, items=[question], instructions="")


@asynccontextmanager
async def answers_of(link: BrokerLink, told: Told) -> AsyncIterator[Answers]:
    async with asyncio.TaskGroup() as group, asyncio.timeout(TIMEOUT_S):
        yield Answers(
            group=group,
            owner=told,
            slots=Slots(link=link, client_id="sess_1", max_wait_s=60.0),
            record=CallRecord(recordings=NoRecording(), client_id="sess_1"),
            settings=RealtimeSettings(),
            find_voice=no_voice,
        )


@pytest.fixture
def stack(fabric: FabricSettings) -> Iterator[ExitStack]:
    """What is closed after the test, before the fabric is looked at."""
    with ExitStack() as stack:
        yield stack


async def answered(
    stack: ExitStack, fabric: FabricSettings, words: tuple[str, ...]
) -> Told:
    """Ask a worker that says *words* and dies; another one is there by then."""
    stack.enter_context(broker_thread(fabric))
    dying, sound = DyingWorker(fabric, "worker-0"), EchoWorker(fabric, "worker-1")
    dying.words = words
    told = Told()
    stack.callback(dying.close)
    dying.start()
    async with open_link(fabric, role="web", name="web-0") as link:
        await link.wait_connected(TIMEOUT_S)
        async with asyncio.timeout(TIMEOUT_S):
            while not any(view.num_slots for view in (await status_of(link)).workers):
                await asyncio.sleep(0.005)
        async with answers_of(link, told) as answers:
            answer = an_answer()
            answers.begin(answer)
            await answers.release(answer)
            while not dying.seen:
                await asyncio.sleep(0.005)
            stack.callback(sound.close)
            sound.start()
            await told.is_over.wait()
    return told


async def test_a_worker_lost_before_its_first_word_is_replaced(
    stack: ExitStack, fabric: FabricSettings
) -> None:
    told = await answered(stack, fabric, ())

    assert told.kinds.count("response.created") == 1
    assert told.last_response()["status"] == "completed"


async def test_a_worker_lost_in_its_words_costs_the_answer(
    stack: ExitStack, fabric: FabricSettings
) -> None:
    """Saying them again would repeat what the user has heard."""
    told = await answered(stack, fabric, ("one ",))

    assert "response.output_text.delta" in told.kinds
    assert told.last_response()["status"] == "failed"


async def test_an_answer_that_is_dropped_before_it_begins_takes_no_place(
    fabric: FabricSettings,
) -> None:
    """A short pause begins an answer ahead and drops it at once; eight of them were the last."""
    async with open_link(fabric, role="web", name="web-0") as link:
        async with answers_of(link, Told()) as answers:
            for _ in range(MAX_ANSWERS):
                answer = an_answer()
                answers.begin(answer)
                answers.discard(answer)
                assert answer.task is not None
                await asyncio.wait([answer.task])

            assert not answers.is_full
