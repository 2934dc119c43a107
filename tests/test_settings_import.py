"""A config.json of the demo becomes settings that omni starts with."""

import json
from pathlib import Path
from typing import Any

import pytest

from omni.cli import main
from omni.errors import SettingsError
from omni.settings import Settings, load_settings
from omni.settings_import import read_config

#: Every key that the demo documents.
CONFIG: dict[str, dict[str, Any]] = {
    "model": {"model_path": "openbmb/MiniCPM-o", "pt_path": None, "attn_implementation": "sdpa"},
    "audio": {"playback_delay_ms": 350, "chat_vocoder": "token2wav"},
    "service": {
        "gateway_port": 9000,
        "worker_base_port": 22500,
        "max_queue_size": 50,
        "request_timeout": 120,
        "compile": True,
        "data_dir": "data",
        "eta_chat_s": 10,
        "eta_half_duplex_s": 100.5,
        "eta_audio_duplex_s": 60,
        "eta_omni_duplex_s": 70,
        "eta_streaming_s": 21,
        "eta_ema_alpha": 0.5,
        "eta_ema_min_samples": 5,
    },
    "duplex": {"pause_timeout": 30},
    "recording": {"enabled": False, "session_retention_days": 7, "max_storage_gb": 1.5},
}


def write(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_every_key_of_the_demo_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = write(tmp_path, CONFIG), tmp_path / "settings.toml"

    assert main(["settings", "import", str(path), "--output", str(output)]) == 0

    settings = load_settings(output)
    for section, body in CONFIG.items():
        for key, value in body.items():
            got = getattr(getattr(settings, section), key)
            assert got == ("" if value is None else value), f"{section}.{key}"
    assert settings.fabric == Settings().fabric
    assert "warning" not in capsys.readouterr().err


def test_without_an_output_the_file_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"model": {"model_path": "x"}})

    assert main(["settings", "import", str(path)]) == 0

    assert 'model_path = "x"' in capsys.readouterr().out


def test_unknown_keys_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"service": {"num_workers": 2, "gateway_port": 1}, "cats": {"a": 1}, "stray": 5}

    main(["settings", "import", str(write(tmp_path, document))])

    captured = capsys.readouterr()
    assert "gateway_port = 1" in captured.out and "num_workers" not in captured.out
    for name in ("service.num_workers", "cats.a", "stray"):
        assert f"no setting {name}" in captured.err


def test_files_are_meant_from_where_the_config_lies(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "voice.wav").write_bytes(b"")
    document = {
        "model": {"model_path": "weights"},
        "audio": {"ref_audio_path": "voice.wav"},
        "service": {"data_dir": "not/there"},
    }

    values = read_config(write(tmp_path, document)).values

    assert values == {
        "model.model_path": str(tmp_path / "weights"),
        "audio.ref_audio_path": str(tmp_path / "voice.wav"),
        "service.data_dir": "not/there",
    }


def test_a_voice_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    document = {"audio": {"ref_audio_path": "assets/ref_audio/ref_minicpm_signature.wav"}}

    imported = read_config(write(tmp_path, document))

    assert imported.values == {}
    assert "there is no such file" in imported.warnings[0]


def test_one_estimate_for_both_kinds_of_duplex_is_understood(tmp_path: Path) -> None:
    values = read_config(write(tmp_path, {"service": {"eta_duplex_s": 33}})).values

    assert values == {"service.eta_audio_duplex_s": 33.0, "service.eta_omni_duplex_s": 33.0}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("[]", "sections"),
        ('{"service": {"gateway_port": "high"}}', "service.gateway_port"),
        ('{"audio": {"playback_delay_ms": 5000}}', "from 0 to 2000"),
        ('{"model": {"attn_implementation": "fast"}}', "attn_implementation"),
    ],
)
def test_what_cannot_be_taken_over_stops_with_its_place(
    tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(SettingsError, match=word):
        read_config(path)
    assert main(["settings", "import", str(path)]) != 0


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path, output = write(tmp_path, {}), tmp_path / "settings.toml"
    output.write_text("mine")

    assert main(["settings", "import", str(path), "--output", str(output)]) != 0
    assert main(["settings", "import", str(tmp_path / "no.json")]) != 0

    assert output.read_text() == "mine"
