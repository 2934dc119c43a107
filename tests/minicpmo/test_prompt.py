"""Tokenizer, template and id lists against the golden prompts; text can never be markup."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import CheckpointError, ClientError
from omni.minicpmo.images import slice_grid
from omni.minicpmo.model.audio_encoder import num_embeddings
from omni.minicpmo.prompt import AudioPart, ChatOptions, ImagePart, Message, Part, Prompts
from omni.minicpmo.system_prompts import Place, voice_prompt
from omni.minicpmo.tokenizer import TextStream, Tokenizer


@pytest.fixture(scope="session")
def prompts(checkpoint_dir: Path) -> Prompts:
    return Prompts(Tokenizer.from_directory(checkpoint_dir))


def parts_of(content: Any, media: dict[str, Any], max_slices: int) -> tuple[Part, ...]:
    """Return golden content with its @media references resolved."""
    parts: list[Part] = []
    for item in [content] if isinstance(content, str) else content:
        fact = media.get(item.removeprefix("@"))
        if fact is None:
            parts.append(item)
        elif "image" in fact:
            parts.append(ImagePart(grid=slice_grid(tuple(fact["image"]), max_slices)))
        else:
            frames = -(-fact["samples"] // 160)
            parts.append(AudioPart(num_tokens=num_embeddings(frames)))
    return tuple(parts)


def run_lengths(runs: list[list[int]]) -> list[int]:
    return [token for token, count in runs for _ in range(count)]


def test_chat_prompts_are_the_golden_ones(prompts, expected):
    facts = expected("f_prompts").facts
    for case in facts["chat"]:
        given_options = case["options"]
        max_slices = given_options.get("max_slice_nums", 9)
        messages = [
            Message(
                role=message["role"],
                parts=parts_of(message["content"], facts["media"], max_slices),
            )
            for message in case["messages"]
        ]
        options = ChatOptions(
            enables_thinking=given_options.get("enable_thinking", False),
            speaks=given_options.get("use_tts_template"),
            joins_parts=given_options.get("omni_mode", False),
            streams_audio=given_options.get("stream_input", False),
            uses_image_ids=given_options.get("use_image_id", True),
        )

        prompt = prompts.chat(messages, options)

        assert prompt.ids == run_lengths(case["ids_runlength"]), case["case"]
        assert [[s.start, s.stop] for s in prompt.images] == case["image_bounds"], case["case"]
        assert [[s.start, s.stop] for s in prompt.audios] == case["audio_bounds"], case["case"]


def test_image_placeholders_are_the_golden_ones(prompts, expected):
    for case in expected("a_image").facts["cases"]:
        grid = tuple(case["grid"]) if case["grid"] else None

        prompt = prompts.content([ImagePart(grid=grid)], ChatOptions())

        assert prompt.ids == run_lengths(case["placeholder_with_id_ids_runlength"])


def test_template_outputs_are_the_golden_ones(prompts, expected):
    for case in expected("f_prompts").facts["template"]:
        text = prompts.render(
            case["messages"], add_generation_prompt=case["add_generation_prompt"], **case["options"]
        )

        assert text == case["text"]


def test_tokenization_is_the_golden_one(prompts, expected):
    for case in expected("f_prompts").facts["tokenization"]:
        tokenizer = prompts.tokenizer

        assert tokenizer.encode_markup(case["text"]) == case["ids"]
        assert tokenizer.encode(case["text"]) == case["ids_split_special"]
        assert tokenizer.decode(case["ids"], skips_special=False) == case["decoded"]
        assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"]


def test_all_ids_resolve_by_name(prompts, expected):
    facts = expected("f_prompts").facts

    assert {name: prompts.tokenizer.id(name) for name in facts["token_ids"]} == facts["token_ids"]
    assert prompts.tokenizer.vocab_size == facts["vocab_size"]
    assert list(prompts.tokenizer.bad_token_ids) == facts["bad_token_ids"]


def test_a_tokenizer_built_from_vocabulary_and_merges_is_the_same(
    checkpoint_dir, tmp_path, expected
):
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"):
        shutil.copy(checkpoint_dir / name, tmp_path / name)

    built = Tokenizer.from_directory(tmp_path)

    for case in expected("f_prompts").facts["tokenization"]:
        assert built.encode_markup(case["text"]) == case["ids"]
        assert built.encode(case["text"]) == case["ids_split_special"]
        assert built.decode(case["ids"]) == case["decoded_skip_special"]


def test_system_voice_prompts_are_the_golden_ones(prompts, expected):
    for case in expected("f_prompts").facts["system_prompts"]:
        arguments = (case["mode"], case["language"], case["audio"])
        if "error" in case:
            with pytest.raises(ClientError, match="needs a reference audio"):
                voice_prompt(*arguments)
            continue

        parts = voice_prompt(*arguments)

        shown = ["@audio" if part is Place.REFERENCE_AUDIO else part for part in parts]
        assert shown == case["content"]
        for part, ids in zip(parts, case["ids_of_text_parts"], strict=True):
            assert part is Place.REFERENCE_AUDIO or prompts.tokenizer.encode(part) == ids


def test_duplex_prefixes_and_suffixes_are_the_golden_ones(prompts, expected):
    for case in expected("f_prompts").facts["duplex_prepare"]:
        text = case["prefix"].removeprefix("<|im_start|>system\n").removesuffix("\n<|audio_start|>")

        prefix, suffix = prompts.duplex_prefix(text), prompts.duplex_suffix()

        samples = case["ref_samples"] or 0
        audio = num_embeddings(-(-samples // 160)) if samples else 0
        assert (prefix, suffix) == (case["prefix_ids"], case["suffix_ids"])
        assert len(prefix) + audio + len(suffix) == case["kv_length"]


def test_the_header_of_a_spoken_answer_is_the_published_one(prompts):
    text = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<|tts_bos|>"

    assert prompts.assistant_header(speaks=True) == prompts.tokenizer.encode_markup(text)


def test_a_frame_of_a_unit_has_no_number_and_no_line_breaks(prompts):
    frame = prompts.duplex_frame((2, 2))
    control = prompts.tokenizer.control

    outside = [i for i in frame.ids if i != control.placeholder]
    slices = [control.slice_start, control.slice_end] * 4
    assert outside == [control.image_start, control.image_end, *slices]
    assert [span.stop - span.start for span in frame.images] == [64] * 5


HOSTILE = ["<|im_end|>", "<|im_start|>", "<unk>", "<image>", "<|listen|>", "\ufdd0", "0", "1", "m0"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=5)), max_size=12))
def test_no_text_can_add_markup_or_a_place_for_media(prompts, pieces):
    text = "".join(pieces)
    message = Message(role="user", parts=(text, ImagePart(grid=None), text))

    prompt = prompts.chat([message], ChatOptions())

    bare = Message(role="user", parts=("x", ImagePart(grid=None), "x"))
    special = set(prompts.tokenizer.markup_ids.values())
    wanted = [i for i in prompts.chat([bare], ChatOptions()).ids if i in special]
    assert [i for i in prompt.ids if i in special] == wanted
    assert len(prompt.images) == 1


@settings(deadline=None)
@given(st.text(max_size=40))
def test_text_in_a_message_decodes_to_itself(prompts, text):
    """NFC is the tokenizer's own normalisation; surrogates cannot be encoded at all."""
    ids = prompts.content([text], ChatOptions()).ids

    assert prompts.tokenizer.decode(ids, skips_special=False) == prompts.tokenizer.decode(
        prompts.tokenizer.encode(text), skips_special=False
    )


def test_half_a_character_from_json_becomes_a_replacement_character(prompts):
    ids = prompts.content([json.loads('"a\\ud83db"')], ChatOptions()).ids

    assert prompts.tokenizer.decode(ids) == "a\ufffdb"


def test_streamed_text_holds_back_only_incomplete_characters(prompts):
    text = "naïve 😀 你好，世界 done"
    stream = TextStream(prompts.tokenizer)

    pieces = [stream.push([i]) for i in prompts.tokenizer.encode(text)]

    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[0] == "n"


def test_a_broken_character_is_shown_once_it_cannot_be_completed(prompts):
    ids = prompts.tokenizer.encode("😀")
    stream = TextStream(prompts.tokenizer)

    pushed = stream.push(ids[:2]) + stream.push(prompts.tokenizer.encode("a"))

    assert pushed.endswith("a") and "\ufffd" in pushed


def test_a_template_that_refuses_is_the_callers_error(checkpoint_dir):
    tokenizer = Tokenizer.from_directory(checkpoint_dir)
    template = "{{ raise_exception('roles must alternate') }}"
    tokenizer.config = dict(tokenizer.config) | {"chat_template": template}

    with pytest.raises(ClientError, match="roles must alternate"):
        Prompts(tokenizer).render([])


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% for %}", None]
)
def test_a_template_cannot_reach_beyond_its_messages(checkpoint_dir, template):
    tokenizer = Tokenizer.from_directory(checkpoint_dir)
    tokenizer.config = dict(tokenizer.config) | {"chat_template": template}

    with pytest.raises((CheckpointError, ClientError), match="chat.template"):
        assert Prompts(tokenizer).render([]) != ""


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_a_broken_tokenizer_file_is_named(checkpoint_dir, tmp_path, name):
    for file in checkpoint_dir.glob("*token*.json"):
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / name).chmod(0o644)
    (tmp_path / name).write_text("{")

    with pytest.raises(CheckpointError, match="tokenizer"):
        Tokenizer.from_directory(tmp_path)


def test_a_tokenizer_without_our_control_tokens_is_refused(checkpoint_dir, tmp_path):
    raw = json.loads((checkpoint_dir / "tokenizer.json").read_text())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "<|listen|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    shutil.copy(checkpoint_dir / "tokenizer_config.json", tmp_path)

    with pytest.raises(CheckpointError, match=r"no token '<\|listen\|>'"):
        Tokenizer.from_directory(tmp_path)
