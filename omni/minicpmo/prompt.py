"""Messages -> token ids with places for embeddings, part by part.

The chat template of the checkpoint decides the markup. Its text is rendered once, with media and
the names of control tokens in people's text replaced by marks that no text can hold; then our own
markup becomes control tokens and everything else plain text, joined as the template joined it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from attrs import define, field, frozen

from omni.engine import Tool, ToolCall
from omni.errors import CheckpointError, ClientError
from omni.minicpmo.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]
Grid = tuple[int, int]  # (columns, rows) of slices

NUM_IMAGE_TOKENS = 64  # embeddings of one source image or slice; config.json: query_num
_AUDIO_GROUP_TOKENS = 10  # one second, delimited by itself where audio is streamed into a chat
_MARK = "\ufdd0"  # a noncharacter of Unicode: never part of a text that is meant to be exchanged


@frozen(kw_only=True)
class ImagePart:
    """A picture: its source and, where it was sliced, grid = (columns, rows) of slices."""

    grid: Grid | None


@frozen(kw_only=True)
class AudioPart:
    """A recording of so many embeddings."""

    num_tokens: int


Part = str | ImagePart | AudioPart


@frozen(kw_only=True)
class Message:
    """One message of a conversation; *parts* in the order in which the model meets them.

    tool_calls: of an assistant, behind its parts.
    """

    role: Role
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()


@frozen(kw_only=True)
class Span:
    """Positions start..stop-1 of a prompt, to be filled with embeddings."""

    start: int
    stop: int


@define
class Prompt:
    """Token ids, and where the embeddings of images (one span a slice) and audios go."""

    ids: list[int] = field(factory=list)
    images: list[Span] = field(factory=list)
    audios: list[Span] = field(factory=list)


@frozen(kw_only=True)
class ChatOptions:
    """How a chat prompt is written; the defaults are the published ones.

    speaks: end with the token after which the answer is spoken; None: if there is any audio.
    joins_parts: the parts of a message stand side by side (omni), else each on its own line.
    streams_audio: every second of audio has its own delimiters; also joins the parts.
    tools: functions that the model is told of, for templates that take them.
    """

    enables_thinking: bool = False
    speaks: bool | None = None
    joins_parts: bool = False
    streams_audio: bool = False
    uses_image_ids: bool = True
    adds_generation_prompt: bool = True
    tools: tuple[Tool, ...] = ()


class Prompts:
    """Writes every prompt of a checkpoint; holds its tokenizer and its chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        names = sorted(tokenizer.markup_ids, key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(name) for name in names))
        self._cut = re.compile(f"{_MARK}m(\\d+){_MARK}|({self._control.pattern})")
        source = _template_source(tokenizer.config)
        try:
            self._template = self._environment().from_string(source)
        except jinja2.TemplateError as exc:
            raise CheckpointError(f"tokenizer_config.json: chat_template: {exc}") from exc
        #: Whether the template tells the model of functions.
        self.takes_tools = "tools" in _variables(source)

    def render(self, messages: Sequence[Mapping[str, object]], **options: object) -> str:
        """Return the chat template's text of {"role", "content", "tool_calls"?} messages.

        Raises: ClientError, when the template refuses these messages.
        """
        try:
            return self._template.render(messages=messages, **options)
        except (jinja2.TemplateError, RecursionError) as exc:
            raise ClientError(f"the chat template refuses these messages: {exc}") from exc

    def chat(self, messages: Sequence[Message], options: ChatOptions) -> Prompt:
        """Return the prompt of a conversation, ready for the assistant to go on."""
        media: list[ImagePart | AudioPart] = []
        joint = "" if options.joins_parts or options.streams_audio else "\n"
        rendered = [self._rendered(message, joint, media) for message in messages]
        has_audio = any(isinstance(part, AudioPart) for part in media)
        text = self.render(
            rendered,
            add_generation_prompt=options.adds_generation_prompt,
            enable_thinking=options.enables_thinking,
            use_tts_template=has_audio if options.speaks is None else options.speaks,
            tools=[_signature(tool) for tool in options.tools] or None,
        )
        return self._prompt(text, media, options)

    def content(self, parts: Sequence[Part], options: ChatOptions) -> Prompt:
        """Return the prompt of parts with no message around them (half duplex goes by these)."""
        media: list[ImagePart | AudioPart] = []
        joint = "" if options.joins_parts or options.streams_audio else "\n"
        return self._prompt(joint.join(self._text_of(p, media) for p in parts), media, options)

    def turn_start(
        self, role: Role, closes: Literal["", "<|im_end|>\n", "<|tts_eos|><|im_end|>\n"] = ""
    ) -> list[int]:
        """Return the ids that open a turn of *role*, after closing the turn before it."""
        return self.tokenizer.encode_markup(f"{closes}<|im_start|>{role}\n")

    def assistant_header(self, speaks: bool) -> list[int]:
        """Return the ids that close a user's turn and open an answer without a thought."""
        spoken = "<|tts_bos|>" if speaks else ""
        return self.tokenizer.encode_markup(
            f"<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{spoken}"
        )

    def duplex_prefix(self, text: str) -> list[int]:
        """Return the ids before the reference audio of a duplex session with system text *text*."""
        control = self.tokenizer.control
        return [control.im_start, *self.tokenizer.encode(f"system\n{text}\n"), control.audio_start]

    def duplex_suffix(self) -> list[int]:
        """Return the ids behind the reference audio; nothing follows but units."""
        return [self.tokenizer.control.audio_end, self.tokenizer.control.im_end]

    def duplex_frame(self, grid: Grid | None) -> Prompt:
        """Return one video frame of a unit: no number, no line breaks between rows of slices."""
        prompt = Prompt()
        self._add_image(prompt, grid, image_id=None, row_break=[])
        return prompt

    def _rendered(
        self, message: Message, joint: str, media: list[ImagePart | AudioPart]
    ) -> dict[str, object]:
        text = joint.join(self._text_of(part, media) for part in message.parts)
        shown: dict[str, object] = {"role": message.role, "content": text}
        if message.tool_calls:
            shown["tool_calls"] = [self._call(call) for call in message.tool_calls]
        return shown

    def _text_of(self, part: Part, media: list[ImagePart | AudioPart]) -> str:
        if isinstance(part, str):
            return self._escape(part)
        media.append(part)
        return f"{_MARK}m{len(media) - 1}{_MARK}"

    def _call(self, call: ToolCall) -> dict[str, object]:
        """Return *call* as templates take it; what is no object (a client's) stands as it is."""
        arguments = _object_in(call.arguments)
        function = {
            "name": self._escape(call.name),
            "arguments": self._escape(call.arguments) if arguments is None else arguments,
        }
        return {"type": "function", "function": function}

    def _environment(self) -> jinja2.sandbox.ImmutableSandboxedEnvironment:
        """Return a sandbox for the checkpoint's template: it is code from a downloaded file.

        JSON is written as the model was trained on it: keys in their order, letters as they are.
        Source: transformers' chat templates, which do not escape for HTML as Jinja does.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value: self._escape(
            json.dumps(value, ensure_ascii=False)
        )
        return environment

    def _escape(self, text: str) -> str:
        """Split control-token names and our own mark in people's text; `_unescape` undoes it."""
        marked = text.replace(_MARK, f"{_MARK}0")
        return self._control.sub(lambda m: f"{m[0][0]}{_MARK}1{m[0][1:]}", marked)

    def _prompt(
        self, text: str, media: Sequence[ImagePart | AudioPart], options: ChatOptions
    ) -> Prompt:
        prompt, image_id = Prompt(), 0
        for piece in _pieces(self._cut, text):
            if isinstance(piece, int):
                part = media[piece]
                if isinstance(part, AudioPart):
                    self._add_audio(prompt, part.num_tokens, options.streams_audio)
                else:
                    number = image_id if options.uses_image_ids else None
                    self._add_image(prompt, part.grid, number, self.tokenizer.encode("\n"))
                    image_id += 1
            elif (control := self.tokenizer.markup_ids.get(piece)) is not None:
                prompt.ids.append(control)
            else:
                prompt.ids += self.tokenizer.encode(_unescape(piece))
        return prompt

    def _add_image(
        self, prompt: Prompt, grid: Grid | None, image_id: int | None, row_break: list[int]
    ) -> None:
        control = self.tokenizer.control
        if image_id is not None:
            number = self.tokenizer.encode(str(image_id))
            prompt.ids += [control.image_id_start, *number, control.image_id_end]
        self._add_span(prompt, prompt.images, control.image_start, control.image_end)
        columns, rows = grid or (0, 0)
        for row in range(rows):
            prompt.ids += row_break if row else []
            for _ in range(columns):
                self._add_span(prompt, prompt.images, control.slice_start, control.slice_end)

    def _add_audio(self, prompt: Prompt, num_tokens: int, in_groups: bool) -> None:
        control = self.tokenizer.control
        step = _AUDIO_GROUP_TOKENS if in_groups else max(1, num_tokens)
        for first in range(0, max(1, num_tokens), step):
            count = min(step, num_tokens - first)
            self._add_span(prompt, prompt.audios, control.audio_start, control.audio_end, count)

    def _add_span(
        self, prompt: Prompt, spans: list[Span], start: int, end: int, count: int = NUM_IMAGE_TOKENS
    ) -> None:
        first = len(prompt.ids) + 1
        spans.append(Span(start=first, stop=first + count))
        prompt.ids += [start, *[self.tokenizer.control.placeholder] * count, end]


def _pieces(cut: re.Pattern[str], text: str) -> Iterator[str | int]:
    """Yield plain text, names of control tokens, and numbers of media, in order."""
    position = 0
    for match in cut.finditer(text):
        if match.start() > position:
            yield text[position : match.start()]
        yield int(match[1]) if match[1] is not None else match[0]
        position = match.end()
    if position < len(text):
        yield text[position:]


def _unescape(text: str) -> str:
    return text.replace(f"{_MARK}1", "").replace(f"{_MARK}0", _MARK)


def _signature(tool: Tool) -> dict[str, object]:
    """Return *tool* as templates take it. Source: OpenAI's form, which Qwen3 was trained on."""
    function: dict[str, object] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    parameters = _object_in(tool.parameters)
    if parameters is None:
        raise ClientError(f"the parameters of {tool.name} are no JSON object, or nested too deep")
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _object_in(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _variables(source: str) -> set[str]:
    """Return the names that the template *source*, which compiles, is given."""
    environment = jinja2.Environment(extensions=[jinja2.ext.loopcontrols])
    return jinja2.meta.find_undeclared_variables(environment.parse(source))


def _template_source(config: Mapping[str, Any]) -> str:
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if not isinstance(source, str):
        raise CheckpointError("tokenizer_config.json: chat_template must be a template")
    return source


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
