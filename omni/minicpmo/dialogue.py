"""What lies in the KV cache of a hands-free session: the system prompt, then round after round.

A round is a user's turn and its answer. Every token belongs to exactly one round (Q28), so that the
oldest ones can be dropped when the cache is full, and the last one can be rolled back.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from omni.errors import CapacityError
from omni.minicpmo.content import Content, embedded
from omni.minicpmo.prompt import ChatOptions
from omni.minicpmo.session import Session
from omni.minicpmo.work import Fed, Feed, Ids, Part, Program, done

#: Published: above `high` tokens the oldest rounds go, until at most `low` are left.
HIGH_TOKENS, LOW_TOKENS = 8000, 6000
_CLOSING: Final = "<|tts_eos|><|im_end|>\n"  # of an answer that is followed by a user's turn
_OPTIONS = ChatOptions(joins_parts=True, uses_image_ids=False, adds_generation_prompt=False)


@frozen(kw_only=True)
class Mark:
    """A state to come back to."""

    length: int
    num_rounds: int
    num_dropped: int
    round_length: int
    is_user_open: bool
    is_answer_open: bool


@define(kw_only=True, eq=False)
class Dialogue:
    """The rounds of one session.

    rounds: lengths of the finished ones, oldest first. round_length: of the one that goes on.
    is_user_open, is_answer_open: whose turn the cache ends with; neither is closed by a token yet.
    """

    session: Session
    high_tokens: int
    low_tokens: int
    system_length: int = 0
    rounds: deque[int] = field(factory=deque)
    round_length: int = 0
    is_user_open: bool = False
    is_answer_open: bool = False
    num_dropped: int = 0

    @classmethod
    def of(cls, session: Session, max_answer_tokens: int) -> "Dialogue":
        """Return an empty dialogue whose window leaves room for an answer in the context."""
        room = session.around.max_tokens - max_answer_tokens
        high = min(HIGH_TOKENS, max(1, room))
        return cls(session=session, high_tokens=high, low_tokens=min(LOW_TOKENS, high * 3 // 4))

    @property
    def length(self) -> int:
        """All tokens; what the cache holds between two works."""
        return self.system_length + sum(self.rounds) + self.round_length

    def begin(self, system: Content) -> Program[None]:
        """Feed the system prompt, which is never dropped."""
        prompt = self.session.around.prompts.chat([system.message], _OPTIONS)
        yield from self._feed((yield from embedded(prompt, [system], sees_all=True)))
        self.system_length, self.round_length = self.round_length, 0

    def encode(self, content: Content) -> Program[list[Part]]:
        """Return a user's words ready for `hear`; nothing is fed."""
        prompt = self.session.around.prompts.content(content.parts, _OPTIONS)
        parts = yield from embedded(prompt, [content], sees_all=True)
        return parts

    def hear(self, parts: Sequence[Part]) -> Program[None]:
        """Feed what the user says: a new turn, or more of the turn that is open.

        Raises: ContextExhausted or CapacityError; the dialogue is then as it was.
        """
        if self.is_user_open:
            yield from self._feed(parts)
            return
        prompts = self.session.around.prompts
        opening = prompts.turn_start("user", _CLOSING if self.is_answer_open else "")
        finished = self.round_length
        yield from self._feed([Ids(opening), *parts])
        if self.is_answer_open:
            finished += len(self.session.tokenizer.encode_markup(_CLOSING))
            self.rounds.append(finished)
            self.round_length -= finished
        self.is_user_open, self.is_answer_open = True, False

    def begin_answer(self) -> Program[Fed]:
        """Close the user's turn and open the answer; returns the logits of its first token."""
        header = self.session.around.prompts.assistant_header(speaks=True)
        fed = yield from self._feed([Ids(header)], wants_logits=True)
        self.is_user_open, self.is_answer_open = False, True
        return fed

    def end_answer(self) -> None:
        """Count the answer, which somebody else has fed token by token."""
        self.round_length += self.session.kv_length - self.length

    # --- the window

    def make_room(self, num_tokens: int) -> None:
        """Drop the oldest rounds if the dialogue would not fit its window with so many more."""
        if self.length + num_tokens > self.high_tokens:
            self._drop_until(self.low_tokens - num_tokens)

    def make_half(self) -> bool:
        """Drop half of the rounds' tokens (the pool of pages is short); False: there are none."""
        num_before = self.num_dropped
        self._drop_until(self.system_length + (self.length - self.system_length) // 2)
        return self.num_dropped > num_before

    def _drop_until(self, wanted: int) -> None:
        count, removed = 0, 0
        while count < len(self.rounds) and self.length - removed > wanted:
            removed += self.rounds[count]
            count += 1
        if not count:
            return
        self.session.splice(self.system_length, removed)
        for _ in range(count):
            self.rounds.popleft()
        self.num_dropped += count

    # --- going back

    def mark(self) -> Mark:
        """Return a state that `restore` comes back to, until rounds are dropped."""
        return Mark(
            length=self.length,
            num_rounds=len(self.rounds),
            num_dropped=self.num_dropped,
            round_length=self.round_length,
            is_user_open=self.is_user_open,
            is_answer_open=self.is_answer_open,
        )

    def restore(self, mark: Mark) -> None:
        """Forget everything after *mark*."""
        assert mark.num_dropped == self.num_dropped, "rounds were dropped since"
        self.session.truncate(mark.length)
        while len(self.rounds) > mark.num_rounds:
            self.rounds.pop()
        self.round_length = mark.round_length
        self.is_user_open, self.is_answer_open = mark.is_user_open, mark.is_answer_open

    def _feed(self, parts: Sequence[Part], wants_logits: bool = False) -> Program[Fed]:
        """Feed *parts* to the round that goes on; when that fails, the cache is as it was."""
        length = self.session.kv_length
        try:
            fed = yield from done(Feed(parts=parts, wants_logits=wants_logits))
        except CapacityError:
            self.session.truncate(length)
            raise
        self.round_length += sum(len(part) for part in parts)
        return fed
