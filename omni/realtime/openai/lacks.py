"""What an engine cannot do of what a client asks for: told once in a session, not each time."""

from attrs import define, field

from omni.engine import Capabilities
from omni.openai.errors import Refusal
from omni.realtime.openai.answers import Answer
from omni.realtime.openai.events import ServerEvent, error_event


@define(eq=False)
class Lacks:
    """Those that the client of one session was told of."""

    _told: set[str] = field(factory=set, init=False)

    def of(self, answer: Answer, capabilities: Capabilities) -> list[ServerEvent]:
        """Return what must be told of an engine that can do this before it gives *answer*."""
        engine = f"the engine {capabilities.engine}"
        found = {}
        if answer.has_pictures and not capabilities.vision:
            found["images_not_supported"] = f"{engine} takes no pictures: they are left out"
        if answer.tools and not capabilities.calls_tools:
            found["tools_not_supported"] = f"{engine} calls no functions: it is told of none"
        new = {code: problem for code, problem in found.items() if code not in self._told}
        self._told.update(new)
        return [error_event(Refusal((), problem, code)) for code, problem in new.items()]
