"""An answer ends before a stop text, however it is cut into pieces."""

from omni.engine.stop_texts import StopTexts


def test_a_stop_text_cuts_however_the_text_comes() -> None:
    for cut in range(1, 8):
        stops = StopTexts(("abcab", "cd"))
        pieces = ["xxabca", "bcaab", "abcdyy"]
        text = "".join(pieces)
        shown = "".join(stops.push(text[at : at + cut]) for at in range(0, len(text), cut))

        assert (shown + stops.flush(), stops.is_hit) == ("xx", True)


def test_what_only_looked_like_a_stop_text_is_shown_at_last() -> None:
    stops = StopTexts(("abcab",))

    assert stops.push("xxabca") == "xx"
    assert stops.flush() == "abca"
    assert not stops.is_hit
