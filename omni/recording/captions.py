"""What the answers say, over time: cues, as WebVTT and for pictures."""

from collections.abc import Sequence

from attrs import evolve, frozen

from omni.recording.replay import CAPTION_LINGER_S, Slot


@frozen(kw_only=True)
class Cue:
    """A text that is shown for a while."""

    begin_s: float
    end_s: float
    text: str


def cues_of(slots: Sequence[Slot]) -> list[Cue]:
    """Return the captions of *slots*: a turn's text grows, and stays a little after its end."""
    cues: list[Cue] = []
    end_s = slots[-1].end_s if slots else 0.0
    for slot in slots:
        if not slot.text.strip():
            continue
        if cues and cues[-1].end_s > slot.begin_s:
            cues[-1] = evolve(cues[-1], end_s=slot.begin_s)
        until_s = min(slot.end_s + CAPTION_LINGER_S, end_s)
        cues.append(Cue(begin_s=slot.begin_s, end_s=until_s, text=slot.text.strip()))
    return cues


def as_webvtt(cues: Sequence[Cue]) -> str:
    """Return *cues* as a WebVTT file."""
    blocks = [
        f"{_clock(cue.begin_s)} --> {_clock(cue.end_s)}\n{_payload(cue.text)}\n" for cue in cues
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _payload(text: str) -> str:
    """Return *text* so that nothing in it is markup or the end of its cue."""
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(at_s: float) -> str:
    milliseconds = round(at_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
