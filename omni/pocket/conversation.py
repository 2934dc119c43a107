"""What was said in one session, as the language model will be told: only what was really heard."""

from omni.pocket.persona import Persona
from omni.pocket.thinking import Utterance

#: History kept, in characters (about 4 a token). Beyond it the older half goes at once: each
#: change at the front makes the model read everything behind it again.
_MAX_CHARS = 1600
#: Stands where the user broke in.
INTERRUPTED = "—"


class Conversation:
    """The prompt of one session: persona, then turns, bounded."""

    def __init__(self, persona: Persona) -> None:
        self.persona = persona
        self._turns: list[Utterance] = []

    @property
    def num_turns(self) -> int:
        """How many messages are remembered."""
        return len(self._turns)

    def with_question(self, text: str) -> tuple[Utterance, ...]:
        """Return the prompt that asks *text* now; what was not answered yet is asked with it."""
        return (*self.persona.prefix, *_with_user(self._turns, text))

    def messages(self) -> tuple[Utterance, ...]:
        """Return the prompt so far."""
        return (*self.persona.prefix, *self._turns)

    def asked(self, text: str) -> None:
        """Note that the user said *text*."""
        self._turns = _with_user(self._turns, text)

    def answered(self, text: str, interrupted: bool = False) -> None:
        """Note that the user heard *text*, and whether they broke in."""
        heard = f"{text.strip()} {INTERRUPTED}".strip() if interrupted else text.strip()
        if heard:
            self._turns.append(Utterance(role="assistant", text=heard))
        self._forget()

    def _forget(self) -> None:
        if sum(len(turn.text) for turn in self._turns) <= _MAX_CHARS:
            return
        while len(self._turns) > 2 and sum(len(t.text) for t in self._turns) > _MAX_CHARS // 2:
            self._turns.pop(0)
        while self._turns and self._turns[0].role == "assistant":
            self._turns.pop(0)


def _with_user(turns: list[Utterance], text: str) -> list[Utterance]:
    if turns and turns[-1].role == "user":
        return [*turns[:-1], Utterance(role="user", text=f"{turns[-1].text} {text}")]
    return [*turns, Utterance(role="user", text=text)]
