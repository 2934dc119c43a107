"""The default voice where the operator names another one."""

from pathlib import Path

import pytest

from omni.errors import NotFound, OmniError, rendering_of
from omni.routes.audio_assets import DEFAULT_VOICE, _read_voice


def test_a_voice_that_is_missing_is_404(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no.wav"):
        _read_voice(tmp_path / "no.wav")


@pytest.mark.parametrize("content", [b"", b"no sound", DEFAULT_VOICE.read_bytes()[:30]])
def test_a_voice_that_cannot_be_read_is_500_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.wav"
    path.write_bytes(content)

    with pytest.raises(OmniError, match="mine.wav") as caught:
        _read_voice(path)

    assert rendering_of(caught.value).http_status == 500
