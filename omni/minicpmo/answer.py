"""Writes one answer token by token: text that leaves whole characters at a time, and its sound."""

from attrs import define, field, frozen

from omni.engine import FinishReason, ReplyChunk, ToolCall
from omni.engine.stop_texts import StopTexts
from omni.errors import ContextExhausted
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.shown_text import Thoughts
from omni.minicpmo.speaker import GROUP_TOKENS, Group, Speaker
from omni.minicpmo.tokenizer import TextStream
from omni.minicpmo.tool_calls import ToolCalls
from omni.minicpmo.work import Draw, Fed, Feed, Ids, Program, done


@frozen(kw_only=True)
class AnswerRules:
    """How an answer is written and when it ends.

    ends: tokens that end it; they are not part of it. speech_ends: end what is spoken, the text
    goes on. stop: texts that end it, shown no more than the text behind them. text_tokens: the text
    leaves when so many have come. shows_thoughts: show what stands from <think> to </think>; it is
    never spoken. calls_tools: the model was told of functions; its calls are not text, nor spoken.
    """

    sampling: TextSampling
    max_new_tokens: int
    ends: frozenset[int]
    min_new_tokens: int = 0
    speech_ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    text_tokens: int = 1
    shows_thoughts: bool = False
    calls_tools: bool = False


@define(kw_only=True, eq=False)
class Answer:
    """One answer, while it is written and afterwards.

    ids: its tokens, without the one that ended it. text: what was shown. Calls of functions leave
    by the outlet where they stand between the words.
    """

    session: Session
    rules: AnswerRules
    outlet: Outlet
    costs: Costs
    speaker: Speaker | None
    ids: list[int] = field(factory=list)
    text: str = ""
    finish_reason: FinishReason = "length"
    _stream: TextStream = field(init=False)
    _stops: StopTexts = field(init=False)
    _thoughts: Thoughts = field(init=False)
    _calls: ToolCalls | None = field(init=False)
    _group: Group = field(factory=Group)
    _unshown: str = ""
    _speaks: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._stream = TextStream(self.session.tokenizer)
        self._stops = StopTexts(self.rules.stop)
        self._speaks = self.speaker is not None
        self._thoughts = Thoughts(self.session.tokenizer)
        self._calls = ToolCalls(self.session.tokenizer) if self.rules.calls_tools else None

    def write(self, fed: Fed) -> Program[None]:
        """Write the answer. fed: the prompt's end, with logits.

        Raises: CapacityError; what was written until then is in `ids`, `text` and the cache.
        """
        while len(self.ids) < self.rules.max_new_tokens and not self._is_over():
            with self.costs.stage("llm"):
                token = yield from self._draw(fed)
            if token in self.rules.ends:
                self.finish_reason = "stop"
                break
            if token in self.rules.speech_ends:
                yield from self._end_speech(ends_text=True)
            yield from self._say_full_group()
            self.ids.append(token)
            is_said = self._show(token)
            if self._stops.is_hit:
                self.finish_reason = "stop"
                break
            try:
                with self.costs.stage("llm"):
                    fed = yield from done(Feed(parts=(Ids((token,)),), wants_logits=True))
            except ContextExhausted:
                break
            if self._speaks and is_said:
                self._group.add(token, fed.hidden)
            if not self._speaks and len(self.ids) % GROUP_TOKENS == 0:
                yield from self.outlet.wait()
        yield from self._finish()

    def _is_over(self) -> bool:
        if self.outlet.is_over:
            self.finish_reason = "cancelled"
        return self.outlet.is_over

    def _draw(self, fed: Fed) -> Program[int]:
        forbids_end = len(self.ids) < self.rules.min_new_tokens
        drawn = yield from done(
            Draw(
                logits=fed.next_logits,
                sampling=self.rules.sampling,
                history=self.ids,
                forbids_end=forbids_end,
            )
        )
        return drawn.token

    # --- sound

    def _say_full_group(self) -> Program[None]:
        """Speak a whole group, now that it is certain that the text goes on behind it."""
        if len(self._group) < GROUP_TOKENS or self.speaker is None or self.speaker.waits_for_text:
            return
        group, self._group = self._group, Group()
        self._let_text_out()
        yield from self.speaker.say(group, ends_text=False)

    def _end_speech(self, ends_text: bool) -> Program[None]:
        """Speak what is left of the text that is spoken."""
        group, self._group = self._group, Group()
        if self.speaker is not None and self._speaks and len(group):
            self._let_text_out()
            if self.speaker.waits_for_text:
                yield from self.speaker.say_whole(group)
            else:
                yield from self.speaker.say(group, ends_text=ends_text)
        self._speaks = False

    def _finish(self) -> Program[None]:
        self._add(self._stream.flush())
        if self._calls is not None and not self._is_over():
            self._take_call(self._calls.finish())
        self._unshown += self._stops.flush()
        self._let_text_out()
        if not self._is_over():
            # Where the number of tokens ended the text, its end is not marked, as published.
            yield from self._end_speech(ends_text=self.finish_reason == "stop")
        if self.speaker is not None:
            yield from self.speaker.finish()
        if self._calls is not None and self._calls.num_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    # --- text

    def _show(self, token: int) -> bool:
        """Show the text of *token*, if it is to be seen; say whether it is to be spoken."""
        is_thought = self._thoughts.take(token)
        taken = None
        if self._calls is not None and not is_thought:
            taken = self._calls.take(token)
        if taken is not None:
            self._take_call(taken)
        elif self.rules.shows_thoughts or not is_thought:
            self._add(self._stream.push((token,)))
        is_word = self._calls is None or self._calls.has_words
        return is_word and not is_thought and taken is None

    def _take_call(self, taken: ToolCall | str) -> None:
        """Let a call out behind the text before it; what is none after all is text."""
        if isinstance(taken, str):
            self._unshown += self._stops.push(taken) if taken else ""
            return
        self._unshown += self._stops.flush()
        self._let_text_out()
        self.outlet.emit(taken)

    def _add(self, text: str) -> None:
        if self._calls is not None:
            text = self._calls.text(text)
        self._unshown += self._stops.push(text)
        if len(self.ids) % self.rules.text_tokens == 0:
            self._let_text_out()

    def _let_text_out(self) -> None:
        text, self._unshown = self._unshown, ""
        if text:
            self.text += text
            self.outlet.emit(ReplyChunk(text=text))
