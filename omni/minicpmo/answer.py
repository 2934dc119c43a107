"""Writes one answer token by token: text that leaves whole characters at a time, and its sound."""

from typing import Literal

from attrs import define, field, frozen

from omni.engine import ReplyChunk
from omni.errors import ContextExhausted
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.sampling import TextSampling
from omni.minicpmo.session import Session
from omni.minicpmo.speaker import GROUP_TOKENS, Group, Speaker
from omni.minicpmo.tokenizer import TextStream
from omni.minicpmo.work import Draw, Fed, Feed, Ids, Program, done

FinishReason = Literal["stop", "length", "cancelled"]


@frozen(kw_only=True)
class AnswerRules:
    """How an answer is written and when it ends.

    ends: tokens that end it; they are not part of it. speech_ends: end what is spoken, the text
    goes on. stop: texts that end it, shown no more than the text behind them. text_tokens: the text
    leaves when so many have come. shows_thoughts: show what stands from <think> to </think>; it is
    never spoken.
    """

    sampling: TextSampling
    max_new_tokens: int
    ends: frozenset[int]
    min_new_tokens: int = 0
    speech_ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    text_tokens: int = 1
    shows_thoughts: bool = False


class StopTexts:
    """Cuts a text that comes in pieces at the first of some texts."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_hit = False

    def push(self, text: str) -> str:
        """Return what may be shown: a possible beginning of a stop text waits for more."""
        if self.is_hit:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_hit, self._held = True, ""
            return text[: min(places)]
        count = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - count :]
        return text[: len(text) - count]

    def flush(self) -> str:
        """Return what was held: the text ends here."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of *text* that *stop* begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


@define(kw_only=True, eq=False)
class Answer:
    """One answer, while it is written and afterwards.

    ids: its tokens, without the one that ended it. text: what was shown.
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
    _group: Group = field(factory=Group)
    _unshown: str = ""
    _is_thinking: bool = False
    _hides_space: bool = False
    _speaks: bool = field(init=False)
    _think_start: int = field(init=False)
    _think_end: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._stream = TextStream(self.session.tokenizer)
        self._stops = StopTexts(self.rules.stop)
        self._speaks = self.speaker is not None
        self._think_start = self.session.tokenizer.id("<think>")
        self._think_end = self.session.tokenizer.id("</think>")

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
            self._show(token)
            if self._stops.is_hit:
                self.finish_reason = "stop"
                break
            try:
                with self.costs.stage("llm"):
                    fed = yield from done(Feed(parts=(Ids((token,)),), wants_logits=True))
            except ContextExhausted:
                break
            if self._speaks and not self._is_thinking:
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
        self._unshown += self._stops.flush()
        self._let_text_out()
        if not self._is_over():
            # Where the number of tokens ended the text, its end is not marked, as published.
            yield from self._end_speech(ends_text=self.finish_reason == "stop")
        if self.speaker is not None:
            yield from self.speaker.finish()

    # --- text

    def _show(self, token: int) -> None:
        """Add the text of *token* to what was shown, if it is to be seen."""
        self._is_thinking |= token == self._think_start
        if self.rules.shows_thoughts or not (self._is_thinking or token == self._think_end):
            self._add(self._stream.push((token,)))
        if token == self._think_end:
            self._is_thinking, self._hides_space = False, not self.rules.shows_thoughts

    def _add(self, text: str) -> None:
        if self._hides_space and text:
            text = text.lstrip()
            self._hides_space = not text
        self._unshown += self._stops.push(text)
        if len(self.ids) % self.rules.text_tokens == 0:
            self._let_text_out()

    def _let_text_out(self) -> None:
        text, self._unshown = self._unshown, ""
        if text:
            self.text += text
            self.outlet.emit(ReplyChunk(text=text))
