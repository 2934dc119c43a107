"""What a request says about sampling -> how the small model samples."""

from attrs import evolve

from omni.engine import ChatRequest, PrepareDuplex, PrepareHalfDuplex
from omni.pocket.persona import TUNED
from omni.pocket.thinking import Sampling

#: Longest answer in a call, and in a chat, in tokens.
_MAX_SPOKEN_TOKENS = 120
_MAX_CHAT_TOKENS = 1024


def of_chat(request: ChatRequest) -> Sampling:
    """Return the sampling of *request*; one that leaves it at the defaults gets the tuned one."""
    limits = evolve(
        TUNED,
        max_new_tokens=min(request.max_new_tokens, _MAX_CHAT_TOKENS),
        stop=request.stop,
        seed=request.seed,
    )
    if not request.do_sample or _same(request, ChatRequest(messages=())):
        return limits
    return evolve(
        limits,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
    )


def of_half_duplex(opening: PrepareHalfDuplex) -> Sampling:
    """Return the sampling of a half-duplex session."""
    limits = evolve(TUNED, max_new_tokens=min(opening.max_new_tokens, _MAX_SPOKEN_TOKENS))
    if opening.temperature == PrepareHalfDuplex().temperature:
        return limits
    return evolve(limits, temperature=opening.temperature, top_p=ChatRequest(messages=()).top_p)


def of_duplex(opening: PrepareDuplex) -> Sampling:
    """Return the sampling of a full-duplex session."""
    most = min(opening.max_turn_tokens or _MAX_SPOKEN_TOKENS, _MAX_SPOKEN_TOKENS)
    limits = evolve(TUNED, max_new_tokens=most, seed=opening.seed)
    if opening.decode_mode == "greedy" or _same(opening, PrepareDuplex(mode=opening.mode)):
        return limits
    return evolve(
        limits,
        temperature=opening.temperature,
        top_p=opening.top_p,
        top_k=opening.top_k,
        repetition_penalty=opening.text_repetition_penalty,
    )


def _same(asked: ChatRequest | PrepareDuplex, usual: ChatRequest | PrepareDuplex) -> bool:
    return (asked.temperature, asked.top_p, asked.top_k) == (
        usual.temperature,
        usual.top_p,
        usual.top_k,
    )
