"""Classes, settings.toml and docs/settings.md say the same; a wrong setting stops the start."""

import tomllib
from pathlib import Path

import pytest

from omni.errors import SettingsError
from omni.process import ROOT
from omni.settings import Settings, as_toml, load_settings, setting_fields
from omni.settings_table import as_markdown

KNOWN = {item.path: item for item in setting_fields()}


def test_the_settings_file_is_what_the_classes_say() -> None:
    assert (ROOT / "settings.toml").read_text("utf-8") == as_toml()


def test_the_documented_table_is_what_the_classes_say() -> None:
    assert as_markdown() in (ROOT / "docs" / "settings.md").read_text("utf-8")


def test_the_settings_file_changes_nothing() -> None:
    assert load_settings(ROOT / "settings.toml") == Settings()


@pytest.mark.parametrize("path", KNOWN)
def test_every_setting_has_one_line_of_help(path: str) -> None:
    item = KNOWN[path]

    assert item.help and "\n" not in item.help and len(item.help) < 100


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("service.gateway_port", 8006),
        ("audio.playback_delay_ms", 200),
        ("service.worker_base_port", 22400),
        ("service.max_queue_size", 1000),
        ("service.request_timeout", 300.0),
        ("service.compile", False),
        ("service.data_dir", "data"),
        ("service.eta_chat_s", 15.0),
        ("service.eta_streaming_s", 20.0),
        ("service.eta_half_duplex_s", 180.0),
        ("service.eta_audio_duplex_s", 120.0),
        ("service.eta_omni_duplex_s", 90.0),
        ("service.eta_ema_alpha", 0.3),
        ("service.eta_ema_min_samples", 3),
        ("duplex.pause_timeout", 60.0),
        ("model.model_path", ""),
        ("model.pt_path", ""),
        ("model.attn_implementation", "auto"),
        ("audio.ref_audio_path", ""),
        ("audio.chat_vocoder", "token2wav"),
    ],
)
def test_published_names_keep_their_defaults(path: str, value: object) -> None:
    assert KNOWN[path].default == value


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "[service]\ngateway_port = 1\nmax_queue_size = 1\ndata_dir = 'a'\n")
    environ = {"OMNI_SERVICE__GATEWAY_PORT": "2", "OMNI_SERVICE__MAX_QUEUE_SIZE": "2", "HOME": "/"}

    service = load_settings(path, environ, ["service.gateway_port=3"]).service

    assert (service.gateway_port, service.max_queue_size, service.data_dir) == (3, 2, "a")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("web.https=false", False),
        ("web.https=1", True),
        ("fabric.restart_backoff_s=2", 2.0),
        ("security.api_keys=a, b", ("a", "b")),
        ("security.api_keys=", ()),
        ("model.model_path=a=b", "a=b"),
    ],
)
def test_texts_become_the_fields_type(override: str, value: object) -> None:
    section, name = override.split("=", 1)[0].split(".")

    settings = load_settings(overrides=[override])

    assert getattr(getattr(settings, section), name) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("service.gateway_port=70000", ["service.gateway_port", "70000", "from 0 to 65535"]),
        ("service.gateway_port=x", ["service.gateway_port", "'x'", "a whole number"]),
        ("service.gateway_port=8.5", ["'8.5'", "a whole number"]),
        ("web.https=maybe", ["web.https", "'maybe'", "true or false"]),
        ("model.engine=gpt", ["model.engine", "'gpt'", "'pocket'"]),
        ("fabric.heartbeat_interval_s=0", ["heartbeat_interval_s", "0"]),
        ("service.port=1", ["service.port", "gateway_port"]),
        ("nothing.at_all=1", ["nothing.at_all", "sections"]),
        ("service.gateway_port", ["section.field=value"]),
        ('security.allowed_origins=["http://a"]', ["allowed_origins", "one,two"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(override: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(overrides=[override])

    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gateway_port = 1", ["gateway_port", "outside"]),
        ("[service]\ngateway_port = '8006'", ["service.gateway_port", "'8006'"]),
        ("[service]\ncompile = 1", ["service.compile", "true or false"]),
        ("[service]\ngateway_port = true", ["service.gateway_port", "True"]),
        ("[security]\napi_keys = [1]", ["security.api_keys"]),
        ("[service", ["not TOML"]),
        ("[service]\nport = 1", ["service.port"]),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = write(tmp_path, text)

    with pytest.raises(SettingsError) as error:
        load_settings(path)

    assert all(word in str(error.value) for word in [*words, str(path)]), error.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read .*nowhere.toml"):
        load_settings(tmp_path / "nowhere.toml")


def test_a_wrong_environment_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="OMNI_WEB__HTTPS"):
        load_settings(environ={"OMNI_WEB__HTTPS": "maybe"})


def test_texts_of_toml_come_back_as_they_were() -> None:
    odd = 'two\nlines, a "quote", a \\, a tab\t, \x7f and ä'

    document = tomllib.loads(as_toml({"pocket.system_prompt": odd}))

    assert document["pocket"]["system_prompt"] == odd
    assert document["web"]["host"] == "127.0.0.1"
    assert document["security"]["api_keys"] == []
