"""Presets: those that come with the project, and files that break a rule."""

import base64
import re
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from omni.routes.preset_files import MODES, load_presets
from omni.wav import wav_from_waveform
from tests.conftest import RunningOmni
from tests.sounds import tone


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A project's assets with a voice inside of them and one outside."""
    folder = tmp_path / "omni" / "assets"
    (folder / "presets" / "omni").mkdir(parents=True)
    wav = wav_from_waveform(tone(1.0), 24_000)
    (folder / "voice.wav").write_bytes(wav)
    (tmp_path / "secret.wav").write_bytes(wav)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    return folder


def write(assets: Path, name: str, text: str | bytes) -> None:
    path = assets / "presets" / "omni" / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def good(preset_id: str, more: str = "") -> str:
    return f"id: {preset_id}\nsystem_prompt: Be kind.\n{more}"


async def _get(omni: RunningOmni, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession(omni.address) as http, http.get(path) as reply:
        return reply.status, await reply.json()


async def test_every_mode_has_calls_in_both_languages(omni: RunningOmni) -> None:
    status, presets = await _get(omni, "/api/presets")

    ids = {mode: [preset["id"] for preset in entries] for mode, entries in presets.items()}
    calls = ["chinese_call", "english_call"]
    assert status == 200
    assert ids == {
        "turnbased": [*calls, "video_analyst_zh", "video_analyst_en"],
        "half_duplex_audio": calls,
        "omni": [*calls, "mbti_analyst"],
        "audio_duplex": calls,
    }
    assert presets["omni"][2]["order"] == 3


async def test_the_list_carries_no_sound(omni: RunningOmni) -> None:
    _, presets = await _get(omni, "/api/presets")

    for mode, entries in presets.items():
        for preset in entries:
            assert preset["name"] and preset["description"]
            if mode in ("omni", "audio_duplex"):
                sounds = [preset["ref_audio"]]
                assert preset["system_prompt"] and "system_content" not in preset
            else:
                items = preset["system_content"]
                sounds = [item for item in items if item["type"] == "audio"]
                assert all(item["text"] for item in items if item["type"] == "text")
                assert "system_prompt" not in preset
            for sound in sounds:
                assert sound["data"] is None and sound["name"] and sound["duration"] > 2
                assert sound["path"] == "omni/assets/default_voice.wav"


async def test_the_sound_of_every_preset_can_be_had(omni: RunningOmni) -> None:
    _, presets = await _get(omni, "/api/presets")

    for mode, entries in presets.items():
        for preset in entries:
            status, reply = await _get(omni, f"/api/presets/{mode}/{preset['id']}/audio")

            listed = [preset["ref_audio"]] if "ref_audio" in preset else []
            listed += [i for i in preset.get("system_content", []) if i["type"] == "audio"]
            sounds = reply.get("system_content_audio", [])
            sounds += [reply["ref_audio"]] if "ref_audio" in reply else []
            assert status == 200
            assert [sound["duration"] for sound in sounds] == [i["duration"] for i in listed]
            for sound in sounds:
                samples = np.frombuffer(base64.b64decode(sound["data"]), "<f4")
                assert round(samples.size / 16_000, 1) == sound["duration"]


@pytest.mark.parametrize("path", ["omni/nobody", "nowhere/english_call", "omni/..%2fsecret"])
async def test_an_unknown_preset_is_404(omni: RunningOmni, path: str) -> None:
    status, reply = await _get(omni, f"/api/presets/{path}/audio")

    assert status == 404
    assert "." in path or reply["detail"] == f"Preset not found: {path}"


def test_texts_are_in_the_language_that_the_id_names() -> None:
    chinese = re.compile(r"[\u4e00-\u9fff]")
    for presets in load_presets().values():
        for preset in presets:
            texts = [preset.system_prompt, preset.description]
            texts += [item for item in preset.system_content if isinstance(item, str)]
            is_english = preset.id in ("english_call", "video_analyst_en")
            assert not any(chinese.search(text) for text in texts) == is_english, preset.id


def test_presets_stand_by_order_then_by_file(assets: Path) -> None:
    write(assets, "1.yaml", good("last"))
    write(assets, "2.yaml", good("b", "order: 2"))
    write(assets, "3.yaml", good("also_b", "order: 2"))
    write(assets, "4.yaml", good("a", "order: 1\nref_audio_path: omni/assets/voice.wav"))
    write(assets, "ignored.txt", "no preset")

    presets = load_presets(assets)

    assert [preset.id for preset in presets["omni"]] == ["a", "b", "also_b", "last"]
    assert presets["omni"][3].order == 999
    assert presets["omni"][0].ref_audio is not None
    assert presets["omni"][0].ref_audio.duration_s == 1.0
    assert presets.keys() == set(MODES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id: [", "expected"),
        ("- a list", "mapping"),
        ("system_prompt: no id", "id"),
        ("id: a/b\nsystem_prompt: x", "id"),
        ("id: empty", "one of system_content and system_prompt"),
        ("id: !!python/object/apply:os.system ['true']\nsystem_prompt: x", "could not determine"),
        (good("out", "ref_audio_path: secret.wav"), "outside"),
        (good("up", "ref_audio_path: omni/assets/../../secret.wav"), "outside"),
        (good("abs", "ref_audio_path: /etc/passwd"), "outside"),
        (good("link", "ref_audio_path: omni/assets/link.wav"), "outside"),
        (good("gone", "ref_audio_path: omni/assets/no.wav"), "cannot be used"),
        (good("text", "ref_audio_path: omni/assets/presets/omni/good.yaml"), "not a WAV"),
        ("id: item\nsystem_content:\n- type: video", "system_content"),
        ("id: item\nsystem_content:\n- type: audio", "path: is missing"),
        (good("big", "description: " + "x" * 70_000), "above 64 KiB"),
        (good("good"), "another preset's"),
        (b"id: \xff", "utf-8"),
        ("[" * 5000, "recursion"),
    ],
)
def test_a_bad_file_is_left_out_with_its_name(
    assets: Path, caplog: pytest.LogCaptureFixture, text: str | bytes, reason: str
) -> None:
    write(assets, "good.yaml", good("good"))
    write(assets, "wrong.yaml", text)

    presets = load_presets(assets)

    assert [preset.id for preset in presets["omni"]] == ["good"]
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "wrong.yaml" in warning.getMessage() and reason in warning.getMessage()
