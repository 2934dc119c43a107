"""Items as clients are shown them."""

import numpy as np
import pybase64

from omni.audio import INPUT_HZ, resample
from omni.realtime.openai.config import FormatName
from omni.realtime.openai.formats import encode, rate_hz
from omni.realtime.openai.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    Picture,
    Spoken,
    Text,
    UserSound,
)


def shown_item(item: Item, sound: FormatName | None = None) -> dict[str, object]:
    """Return *item*; its pictures and the user's sound only where a format for it is named."""
    head = {"id": item.id, "object": "realtime.item", "status": item.status}
    match item:
        case Message():
            answers = item.role == "assistant"
            content = [_shown_content(part, answers, sound) for part in item.content]
            return {**head, "type": "message", "role": item.role, "content": content}
        case FunctionCall():
            call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return {**head, "type": "function_call", **call}
        case FunctionCallOutput():
            output = {"call_id": item.call_id, "output": item.output}
            return {**head, "type": "function_call_output", **output}


def _shown_content(
    content: Content, is_answer: bool, sound: FormatName | None
) -> dict[str, object]:
    match content:
        case Text():
            return {"type": "output_text" if is_answer else "input_text", "text": content.text}
        case Spoken():
            return {"type": "output_audio", "transcript": content.transcript}
        case UserSound():
            shown: dict[str, object] = {"type": "input_audio", "transcript": content.transcript}
            if sound is not None:
                shown["audio"] = _written(content, sound)
            return shown
        case Picture():
            seen: dict[str, object] = {"type": "input_image", "detail": content.detail}
            if sound is not None:
                seen["image_url"] = content.url
            return seen


def _written(content: UserSound, sound: FormatName) -> str:
    samples = resample(np.frombuffer(content.pcm, "<f4"), INPUT_HZ, rate_hz(sound))
    return pybase64.b64encode_as_string(encode(sound, samples))
