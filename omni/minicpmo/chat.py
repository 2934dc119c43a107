"""Chat as a program: one request with its whole history, one answer in text and, if wanted, sound.

Source: the published chat; its known faults are mended where a comment names one (Q...).
"""

from collections.abc import Sequence

from attrs import evolve, frozen

from omni.audio import Waveform, float32_from_waveform, waveform_from_float32
from omni.engine import (
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Part,
    PrefillDone,
    ReplyChunk,
)
from omni.errors import ClientError
from omni.minicpmo.answer import Answer, AnswerRules
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.content import Content, MediaOptions, embedded, read_message
from omni.minicpmo.outlet import Costs, Outlet
from omni.minicpmo.prompt import ChatOptions, Prompt, Prompts, Span
from omni.minicpmo.sampling import TextRule, TextSampling
from omni.minicpmo.session import Session, Surroundings
from omni.minicpmo.speaker import Speaker, begin_voice
from omni.minicpmo.system_prompts import Language, Place, VoiceMode, voice_prompt
from omni.minicpmo.tool_calls import in_order_of_calls
from omni.minicpmo.work import Aside, Fed, Feed, Lane, Program, done

#: Texts of one request, together: cutting a million characters into tokens takes a second.
MAX_TEXT_CHARS = 2_000_000
#: Of a session's context, so much is kept for the answer when the request wants more.
_MAX_ANSWER_PART = 4


@frozen(kw_only=True, eq=False)
class ChatTurn:
    """A request, read: its prompt and the media in it; voice: float32 at 16 kHz."""

    prompt: Prompt
    contents: tuple[Content, ...]
    voice: Waveform


def chat(session: Session, request: ChatRequest) -> Program[None]:
    """The story of one chat turn: it ends with `ChatDone`."""
    costs = Costs(session.now_s)
    sampling, codes = _text_sampling(request), _code_sampling(request)
    with costs.stage("prefill"):
        turn = yield from done(
            Aside(call=lambda: read_turn(request, session.around), lane=_lane(request))
        )
    yield from answer_turn(session, request, turn, sampling, codes, costs)


def answer_turn(
    session: Session,
    request: ChatRequest,
    turn: ChatTurn,
    sampling: TextSampling,
    codes: CodeSampling,
    costs: Costs,
) -> Program[None]:
    """Prefill *turn* and answer it."""
    control, outlet = session.control, Outlet(session)
    speaker = None
    if request.speak:
        begun = yield from begin_voice(session, turn.voice)
        speaker = Speaker(
            session=session,
            outlet=outlet,
            costs=costs,
            begun=begun,
            sampling=codes,
            waits_for_text=not request.streaming,
        )
    with costs.stage("prefill"):
        fed = yield from _prefill(turn)
    session.emit(PrefillDone(input_tokens=len(turn.prompt.ids)))
    rules = AnswerRules(
        sampling=sampling,
        max_new_tokens=request.max_new_tokens,
        min_new_tokens=request.min_new_tokens,
        ends=frozenset((control.im_end, control.end_of_text)),
        speech_ends=frozenset((control.tts_eos,)),
        stop=request.stop,
        shows_thoughts=request.enable_thinking,
        calls_tools=bool(request.tools),
    )
    answer = Answer(session=session, rules=rules, outlet=outlet, costs=costs, speaker=speaker)
    yield from answer.write(fed)
    session.emit(ReplyChunk(is_final=True))
    session.emit(
        ChatDone(
            text=answer.text,
            input_tokens=len(turn.prompt.ids),
            generated_tokens=len(answer.ids),
            input_audio_tokens=num_places(turn.prompt.audios),
            input_image_tokens=num_places(turn.prompt.images),
            speech_tokens=speaker.num_codes if speaker else 0,
            finish_reason=answer.finish_reason,
            costs=costs.total(),
        )
    )


def num_places(spans: Sequence[Span]) -> int:
    """Return how many tokens of a prompt *spans* are."""
    return sum(span.stop - span.start for span in spans)


def _prefill(turn: ChatTurn) -> Program[Fed]:
    parts = yield from embedded(turn.prompt, turn.contents)
    fed = yield from done(Feed(parts=parts, wants_logits=True))
    return fed


def _text_sampling(request: ChatRequest) -> TextSampling:
    try:
        return TextSampling(
            rule=TextRule.CHAT,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            repetition_penalty=request.repetition_penalty,
            length_penalty=request.length_penalty,
            is_greedy=not request.do_sample,
        )
    except ValueError as exc:
        raise ClientError(f"a sampling parameter is out of range: {exc.args[0]}") from exc


def _code_sampling(request: ChatRequest) -> CodeSampling:
    speech = request.speech
    try:
        return CodeSampling(
            temperature=speech.temperature,
            top_p=speech.top_p,
            top_k=speech.top_k,
            repetition_penalty=speech.repetition_penalty,
            repetition_window=speech.window,
        )
    except ValueError as exc:
        raise ClientError(f"a parameter of the sound is out of range: {exc.args[0]}") from exc


# --- reading a request: beside the engine -------------------------------------------------------


def _lane(request: ChatRequest) -> Lane:
    has_film = any(part.kind == "video" for message in request.messages for part in message.parts)
    return Lane.FILM if has_film else Lane.MEDIA


def read_turn(request: ChatRequest, around: Surroundings) -> ChatTurn:
    """Return *request* read. Raises: ClientError, for media that are broken and what is too long.

    A spoken answer to a conversation without a system message gets the published one for its voice.
    """
    messages = in_order_of_calls(request.messages)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ClientError("the last message must be the user's, or what a function gave")
    _require_template(request, around)
    num_chars = _num_chars(request)
    if num_chars > MAX_TEXT_CHARS:
        raise ClientError(f"{num_chars} characters of text; at most {MAX_TEXT_CHARS} are taken")
    voice = reference_voice(request.voice, messages, around.default_voice)
    options = MediaOptions(max_slices=request.max_slice_nums, hears_videos=request.omni_mode)
    contents = [
        evolve(
            read_message(message.role, message.parts, options, f"messages[{index}].content"),
            tool_calls=message.tool_calls,
        )
        for index, message in enumerate(messages)
    ]
    is_introduced = any(message.role == "system" for message in messages)
    if request.speak and request.voice_mode != "default" and not is_introduced:
        contents.insert(0, voice_message(request.voice_mode, request.voice_language, voice))
    prompt, kept = fitted(
        around.prompts, contents, _chat_options(request), _max_prompt(request, around.max_tokens)
    )
    return ChatTurn(prompt=prompt, contents=tuple(kept), voice=voice)


def _require_template(request: ChatRequest, around: Surroundings) -> None:
    if around.prompts.takes_tools:
        return
    if request.tools or any(m.role == "tool" or m.tool_calls for m in request.messages):
        raise ClientError(
            "the chat template of this checkpoint has no place for functions: leave tools out, and "
            "tell in words what they gave"
        )


def _num_chars(request: ChatRequest) -> int:
    texts = [part.text for message in request.messages for part in message.parts]
    texts += [call.arguments for message in request.messages for call in message.tool_calls]
    texts += [tool.description + tool.parameters for tool in request.tools]
    return sum(map(len, texts))


def reference_voice(
    given: Buffer, messages: Sequence[ChatMessage], default: Waveform
) -> Waveform:
    """Return the reference recording: *given*, the one in the system message, or the default."""
    if len(given):
        return waveform_from_float32(given)
    recordings = [
        part.data
        for message in messages
        for part in message.parts
        if message.role == "system" and part.kind == "audio"
    ]
    return waveform_from_float32(recordings[0]) if recordings else default


def voice_message(mode: VoiceMode, language: Language, voice: Waveform) -> Content:
    """Return the published system message that introduces *voice*."""
    parts = [
        Part(kind="audio", data=Buffer(float32_from_waveform(voice)))
        if part is Place.REFERENCE_AUDIO
        else Part(kind="text", text=part)
        for part in voice_prompt(mode, language, has_audio=True)
    ]
    return read_message("system", parts, MediaOptions(), "system")


def _chat_options(request: ChatRequest) -> ChatOptions:
    return ChatOptions(
        enables_thinking=request.enable_thinking,
        speaks=True if request.speak else None,
        joins_parts=request.omni_mode,
        uses_image_ids=request.use_image_id,
        tools=request.tools,
    )


def _max_prompt(request: ChatRequest, max_tokens: int) -> int:
    room = min(request.max_new_tokens, max_tokens // _MAX_ANSWER_PART)
    return min(request.max_inp_length, max_tokens - room)


def fitted(
    prompts: Prompts, contents: Sequence[Content], options: ChatOptions, max_tokens: int
) -> tuple[Prompt, list[Content]]:
    """Return the prompt of *contents*, without its oldest turns where it would be too long (Q30).

    System messages and the last turn stay. Raises: ClientError, when these are too long.
    """
    kept = list(contents)
    while True:
        prompt = prompts.chat([content.message for content in kept], options)
        num_excess = len(prompt.ids) - max_tokens
        if num_excess <= 0:
            return prompt, kept
        shorter = _without_oldest(prompts, kept, num_excess)
        if len(shorter) == len(kept):
            raise ClientError(
                f"the last message and the system prompt take {len(prompt.ids)} tokens; there is "
                f"room for {max_tokens}: shorten them, or send fewer or smaller pictures"
            )
        kept = shorter


def _without_oldest(
    prompts: Prompts, contents: Sequence[Content], num_tokens: int
) -> list[Content]:
    """Return *contents* without as many of the oldest turns as hold *num_tokens*, or all others.

    A turn is a user's message and all that follows it until the next.
    """
    users = [i for i, content in enumerate(contents) if content.role == "user"]
    last_user = users[-1] if users else 0
    dropped: set[int] = set()
    for index, content in enumerate(contents[:last_user]):
        if content.role == "user" and num_tokens <= 0:
            break
        if content.role != "system":
            dropped.add(index)
            num_tokens -= len(prompts.content(content.parts, ChatOptions()).ids)
    return [content for index, content in enumerate(contents) if index not in dropped]
