"""What a request says about sampling -> how the small model samples."""

from omni.engine import ChatRequest, PrepareDuplex, PrepareHalfDuplex
from omni.pocket.persona import TUNED
from omni.pocket.thinking import Sampling

#: Longest answer in a call, and in a chat, in tokens.
_MAX_SPOKEN_TOKENS = 120
_MAX_CHAT_TOKENS = 1024


def of_chat(request: ChatRequest) -> Sampling:
    """Return the sampling of *request*; what it leaves at the defaults is tuned for our model."""
    tuned = ChatRequest(messages=())
    asked = (request.temperature, request.top_p, request.top_k)
    is_default = asked == (tuned.temperature, tuned.top_p, tuned.top_k)
    return Sampling(
        max_new_tokens=min(request.max_new_tokens, _MAX_CHAT_TOKENS),
        temperature=_temperature(request.temperature, is_default or not request.do_sample),
        top_p=request.top_p,
        top_k=request.top_k,
        repetition_penalty=max(request.repetition_penalty, TUNED.repetition_penalty),
        stop=request.stop,
        seed=request.seed,
    )


def of_half_duplex(opening: PrepareHalfDuplex) -> Sampling:
    """Return the sampling of a half-duplex session."""
    is_default = opening.temperature == PrepareHalfDuplex().temperature
    return Sampling(
        max_new_tokens=min(opening.max_new_tokens, _MAX_SPOKEN_TOKENS),
        temperature=_temperature(opening.temperature, is_default),
        top_p=0.8,
        repetition_penalty=TUNED.repetition_penalty,
    )


def of_duplex(opening: PrepareDuplex) -> Sampling:
    """Return the sampling of a full-duplex session."""
    tuned = PrepareDuplex(mode=opening.mode)
    asked = (opening.temperature, opening.top_p, opening.top_k)
    is_default = asked == (tuned.temperature, tuned.top_p, tuned.top_k)
    return Sampling(
        max_new_tokens=_MAX_SPOKEN_TOKENS,
        temperature=_temperature(
            opening.temperature, is_default or opening.decode_mode == "greedy"
        ),
        top_p=opening.top_p,
        top_k=opening.top_k,
        repetition_penalty=max(opening.text_repetition_penalty, TUNED.repetition_penalty),
        seed=opening.seed,
    )


def _temperature(asked: float, is_tuned: bool) -> float:
    return TUNED.temperature if is_tuned else asked
