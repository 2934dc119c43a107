"""The answers of `/v1/chat/completions`: whole, and as the chunks of a stream."""

from collections.abc import Sequence

from attrs import frozen

from omni.engine import ChatDone, ToolCall

Fragment = dict[str, object]


@frozen(kw_only=True)
class Completion:
    """What all chunks of one answer say. audio_id: "" for an answer in text."""

    completion_id: str
    created: int
    model: str
    audio_id: str = ""
    include_usage: bool = False

    def chunk(self, delta: Fragment, finish_reason: str | None = None) -> Fragment:
        """Return one chunk of a stream."""
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if self.include_usage else chunk

    def first(self) -> Fragment:
        """Return the chunk that begins a stream."""
        return self.chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> Fragment:
        """Return a chunk with a piece of text; of a spoken answer it is the transcript."""
        if self.audio_id:
            return self._audio(transcript=text)
        return self.chunk({"content": text})

    def sound(self, data: str) -> Fragment:
        """Return a chunk with a piece of sound, as base64."""
        return self._audio(data=data)

    def call(self, index: int, call: ToolCall) -> list[Fragment]:
        """Return the chunks of the answer's call of that *index*: which one, then its arguments."""
        begun = {**_shown_call(call), "function": {"name": call.name, "arguments": ""}}
        given = {"function": {"arguments": call.arguments}}
        return [
            self.chunk({"tool_calls": [{"index": index, **part}]}) for part in (begun, given)
        ]

    def kept(self, expires_at: int) -> Fragment:
        """Return the chunk that says how long the sound can be named."""
        return self._audio(expires_at=expires_at)

    def last(self, done: ChatDone) -> Fragment:
        """Return the chunk that says why the answer ended."""
        return self.chunk({}, finish_reason_of(done))

    def usage(self, done: ChatDone) -> Fragment:
        """Return the chunk behind the last, with the counts."""
        chunk = self._head("chat.completion.chunk")
        return {**chunk, "choices": [], "usage": usage_of(done)}

    def whole(
        self, done: ChatDone, audio: Fragment | None, calls: Sequence[ToolCall] = ()
    ) -> Fragment:
        """Return an answer that is not streamed. audio: as OpenAI has it, with the transcript."""
        is_wordless = bool(audio or (calls and not done.text))
        message: Fragment = {
            "role": "assistant",
            "content": None if is_wordless else done.text,
            "refusal": None,
            "annotations": [],
        }
        if audio:
            message["audio"] = audio
        if calls:
            message["tool_calls"] = [_shown_call(call) for call in calls]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finish_reason_of(done),
            "logprobs": None,
        }
        head = self._head("chat.completion")
        return {**head, "choices": [choice], "usage": usage_of(done)}

    def _audio(self, **values: object) -> Fragment:
        return self.chunk({"audio": {"id": self.audio_id, **values}})

    def _head(self, kind: str) -> Fragment:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def finish_reason_of(done: ChatDone) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "stop" if done.finish_reason == "cancelled" else done.finish_reason


def _shown_call(call: ToolCall) -> Fragment:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def usage_of(done: ChatDone) -> Fragment:
    """Return the counts of an answer; what an engine does not count is 0."""
    num_completion = done.generated_tokens + done.speech_tokens
    num_audio, num_images = done.input_audio_tokens, done.input_image_tokens
    return {
        "prompt_tokens": done.input_tokens,
        "completion_tokens": num_completion,
        "total_tokens": done.input_tokens + num_completion,
        "prompt_tokens_details": {
            "text_tokens": done.input_tokens - num_audio - num_images,
            "audio_tokens": num_audio,
            "image_tokens": num_images,
            "cached_tokens": 0,
        },
        "completion_tokens_details": {
            "text_tokens": done.generated_tokens,
            "audio_tokens": done.speech_tokens,
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
