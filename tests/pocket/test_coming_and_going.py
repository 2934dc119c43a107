"""Sessions that come and go faster than the model can be warmed disturb nobody."""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

import pytest

from omni.engine import Arrival, Close, Failed, PrepareDuplex, Slot
from omni.pocket.engine import PocketEngine
from omni.pocket.hearing import Hearing
from omni.pocket.pipeline import Pipeline
from omni.pocket.speaking import Voice
from omni.pocket.thinking import TakeText, Utterance
from omni.settings import load_settings
from tests.pocket.scripted import ScriptedThinking

#: The most that can be set: their warming fills a lane's queue in four goes.
NUM_SEATS = 64


class SlowThinking(ScriptedThinking):
    """A model that is still busy with the first words of its first prompt."""

    def __init__(self) -> None:
        super().__init__("Here I am.")
        self.is_free = threading.Event()

    def prepare(self, seat: int, messages: Sequence[Utterance], take: TakeText) -> None:
        """Take until it is free."""
        self.is_free.wait()

    def close(self) -> None:
        """Let go of who waits."""
        self.is_free.set()


@pytest.fixture
def engine(hearing: Hearing, voice: Voice) -> Iterator[PocketEngine]:
    """An engine whose model is slow."""
    engine = PocketEngine(load_settings(overrides=[f"pocket.max_sessions={NUM_SEATS}"]))
    thinking = SlowThinking()
    # In place of `load`, which would read the real model.
    engine._pipeline = Pipeline(hearing, thinking, voice, NUM_SEATS, datetime.now)
    yield engine
    thinking.is_free.set()
    engine.close()


def test_who_comes_and_goes_fast_disturbs_nobody(engine: PocketEngine) -> None:
    """Each that left as the last warmed all seats once more, until the queue was full: a dead
    engine, and all sessions with it."""
    for generation in range(1, 11):
        slot = Slot(index=0, generation=generation)
        events = engine.step([Arrival(slot, PrepareDuplex(mode="audio_duplex"))])
        events = [*events, *engine.step([Arrival(slot, Close())])]

        assert not any(isinstance(emission.event, Failed) for emission in events)
