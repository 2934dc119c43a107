"""What an engine cannot do of what a client asks for."""

from omni.engine import Capabilities
from omni.openai.errors import Refusal
from omni.realtime.openai.answers import Answer


def lack_of(answer: Answer, capabilities: Capabilities) -> Refusal | None:
    """Return what of *answer* is left out by an engine that can do this; None for nothing."""
    engine = f"the engine {capabilities.engine}"
    if answer.has_pictures and not capabilities.vision:
        problem = f"{engine} takes no pictures: they are left out"
        return Refusal((), problem, "images_not_supported")
    if answer.tools and not capabilities.calls_tools:
        problem = f"{engine} calls no functions: it is told of none"
        return Refusal((), problem, "tools_not_supported")
    return None
