"""From a journal to the files of a session, name by name as the protocol has them."""

import fcntl
import io
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from omni.engine import (
    AudioChunk,
    Buffer,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Failed,
    Generating,
    Part,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    StageCosts,
    ToolCall,
    TurnDone,
    UnitResult,
    UserTranscript,
    VadState,
)
from omni.errors import NotFound, ProtocolError
from omni.messages import RequestType
from omni.recording.finalise import finalise
from omni.recording.journal import Diagnosed, Gap, Item, Opened
from omni.recording.layout import JOURNAL, SUBFOLDERS
from omni.wav import waveform_from_wav
from tests.recording.stage import (
    answer,
    finalised,
    picture,
    read,
    tone,
    write_session,
)

Items = list[tuple[float, int, Item]]


def duplex(num_chunks: int, spoken: dict[int, float], pictures: bool = False) -> Items:
    """Return a session of chunks of 1 s. spoken: seconds of answer by chunk; every one a turn."""
    items: Items = [(0.0, 0, PrepareDuplex(mode="omni_duplex", system_prompt="be kind"))]
    for n in range(num_chunks):
        frames = (picture(),) if pictures else ()
        items.append((n + 0.5, n, AudioChunk(pcm=tone(1.0), frames=frames)))
        result = UnitResult(is_listen=True)
        if n in spoken:
            result = UnitResult(
                is_listen=False,
                text=f"Answer {n} <b>",
                pcm=answer(spoken[n]),
                end_of_turn=True,
                costs=StageCosts(llm_ms=12.5),
                token_ids=(n, 99),
            )
        items.append((n + 0.75, n, result))
    return items


def wav(path: Path) -> tuple[int, float]:
    """Return rate and length in s of a mono file."""
    samples, rate_hz = waveform_from_wav(path.read_bytes())
    return rate_hz, samples.size / rate_hz


def test_ten_chunks_have_the_names_and_fields_of_the_protocol(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", duplex(10, {3: 1.0, 7: 0.5}))

    recording = finalised(folder)

    assert {"session_id", "mode", "worker_id", "start_ts", "config", "chunks"} <= recording.keys()
    assert (recording["mode"], recording["worker_id"]) == ("duplex", 3)
    assert [chunk["index"] for chunk in recording["chunks"]] == list(range(10))
    assert [chunk["user_audio"] for chunk in recording["chunks"]] == [
        f"user_audio/{n:03d}.wav" for n in range(10)
    ]
    listen, speak = recording["chunks"][2], recording["chunks"][3]
    assert listen["result"]["mode"] == "LISTEN" and "ai_audio" not in listen["result"]
    assert "user_frame" not in listen and "text" not in listen["result"]
    assert speak["receive_ts_ms"] == 3500.0
    assert speak["result"].pop("timing") == {
        "prefill_ms": None,
        "llm_ms": 12.5,
        "tts_prep_ms": None,
        "tts_ms": None,
        "token2wav_ms": None,
        "all_ms": None,
        "wall_clock_ms": 250.0,
        "n_tokens": None,
        "n_tts_tokens": None,
        "kv_cache_length": 0,
        "vision_slices": 0,
        "vision_tokens": 0,
    }
    assert speak["result"] == {
        "mode": "SPEAK",
        "text": "Answer 3 <b>",
        "ai_audio": "ai_audio/turn_0_chunk_003.wav",
        "ai_audio_duration_ms": 1000.0,
        "end_of_turn": True,
        "token_ids": [3, 99],
    }
    assert recording["chunks"][7]["result"]["ai_audio"] == "ai_audio/turn_1_chunk_007.wav"
    assert wav(folder / "user_audio/009.wav") == (16_000, 1.0)
    assert wav(folder / "ai_audio/turn_1_chunk_007.wav") == (24_000, 0.5)
    assert "complete" not in recording and "merged_replay_video" not in recording
    assert all((folder / name).is_dir() for name in SUBFOLDERS)
    assert not (folder / JOURNAL).exists()


def test_meta_says_what_the_session_was(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "omni_duplex", duplex(2, {}))

    finalise(folder)

    meta = read(folder / "meta.json")
    assert (meta["session_id"], meta["app_type"], meta["worker_id"]) == ("d", "omni_duplex", 3)
    assert meta["created_at"] == "2023-11-14T22:13:20+00:00"
    assert (meta["ended_at"], meta["duration_s"]) == ("2023-11-14T22:13:21.750000+00:00", 1.8)
    assert meta["title"].startswith("对话 ") and len(meta["title"]) == len("对话 11-14 22:13")
    assert (meta["config"]["system_prompt"], meta["config"]["ref_audio"]) == ("be kind", False)
    assert {"deferred_finalize", "max_slice_nums", "temperature", "top_k"} <= meta["config"].keys()
    assert meta["size_bytes"] > 64_000


def test_the_merged_replay_lasts_as_long_as_its_slots(tmp_path: Path) -> None:
    """A slot is max(user, answer, 1 s): here 8 x 1 s, one of 1.6 s, one of 1.25 s."""
    items = duplex(10, {4: 1.6, 8: 0.5})
    items[-1:] = []
    items[-1] = (9.5, 9, AudioChunk(pcm=tone(1.25)))
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    recording = finalised(folder)

    assert recording["merged_replay"] == "merged_replay.wav"
    left, right, rate_hz = stereo(folder / "merged_replay.wav")
    assert (rate_hz, left.size / 16_000) == (16_000, 8 + 1.6 + 1.25)
    assert np.abs(left[4 * 16_000 : 5 * 16_000]).max() > 0.2
    assert np.abs(left[5 * 16_000 : 5 * 16_000 + 9_000]).max() == 0
    assert np.abs(right[: 4 * 16_000 - 200]).max() < 1e-3
    assert np.abs(right[4 * 16_000 + 200 : 5 * 16_000 + 9_000]).max() > 0.2


def test_the_replay_of_short_chunks_is_not_stretched(tmp_path: Path) -> None:
    """Slots of at least 1 s made stutter of chunks of 200 ms."""
    items: Items = [
        (0.0, 0, PrepareDuplex(mode="audio_duplex", chunk_ms=200)),
        (0.1, 0, Prepared(chunk_ms=200)),
    ]
    for n in range(5):
        items.append((0.2 * (n + 1), n, AudioChunk(pcm=tone(0.2 if n < 4 else 0.1))))
        items.append((0.2 * (n + 1), n, UnitResult(is_listen=True)))
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    recording = finalised(folder)

    assert recording["chunk_ms"] == 200
    assert stereo(folder / "merged_replay.wav")[0].size == 5 * 3200


def stereo(path: Path) -> tuple[Any, Any, int]:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth()) == (2, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32768
        return samples[:, 0], samples[:, 1], file.getframerate()


def test_an_answer_over_several_chunks_has_no_seams(tmp_path: Path) -> None:
    whole = np.frombuffer(answer(4.0), "<f4")
    items: Items = [(0.0, 0, PrepareDuplex(mode="audio_duplex"))]
    for n in range(4):
        piece = whole[n * 24_000 : (n + 1) * 24_000].tobytes()
        items.append((n + 0.1, n, AudioChunk(pcm=tone(1.0))))
        items.append((n + 0.2, n, UnitResult(is_listen=False, pcm=piece, end_of_turn=n == 3)))
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    recording = finalised(folder)

    names = [chunk["result"]["ai_audio"] for chunk in recording["chunks"]]
    assert names == [f"ai_audio/turn_0_chunk_00{n}.wav" for n in range(4)]
    _, right, _ = stereo(folder / "merged_replay.wav")
    expected = 0.25 * np.sin(np.arange(right.size) * 1.5 / 9.0)
    assert np.abs(right - expected)[500:-500].max() < 2e-3


def test_pictures_become_a_film_with_both_voices(tmp_path: Path) -> None:
    items = duplex(4, {2: 1.5}, pictures=True)
    items.append((4.5, 4, AudioChunk(pcm=tone(1.0), frames=(Buffer(b"no picture"),))))
    folder = write_session(tmp_path / "d", "omni_duplex", items)

    recording = finalised(folder)

    assert recording["merged_replay_video"] == "merged_replay.mp4"
    assert recording["chunks"][3]["user_frame"] == "user_frames/003.jpg"
    assert "user_frame" not in recording["chunks"][4]
    with av.open(str(folder / "merged_replay.mp4")) as film:
        kinds = {stream.type: stream for stream in film.streams}
        sound = kinds["audio"].codec_context
        assert (sound.sample_rate, sound.layout.nb_channels) == (16_000, 2)
        times = [frame.time for frame in film.decode(video=0)]
        duration_s = film.duration / 1e6
    assert times[:5] == pytest.approx([0, 1, 2, 3.5, 4.5], abs=0.01)
    assert duration_s == pytest.approx(5.5, abs=0.1)


def test_captions_grow_with_a_turn_and_are_no_markup(tmp_path: Path) -> None:
    items: Items = [(0.0, 0, PrepareDuplex(mode="audio_duplex"))]
    for n, (text, last) in enumerate([("你好", False), ("，世界 <i>", True), ("", True)]):
        speaks = n < 2
        items.append((n + 0.1, n, AudioChunk(pcm=tone(1.0))))
        items.append((n + 0.2, n, UnitResult(is_listen=not speaks, text=text, end_of_turn=last)))
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    finalise(folder)

    assert (folder / "merged_replay.vtt").read_text("utf-8") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n你好\n\n"
        "00:00:01.000 --> 00:00:03.000\n你好，世界 &lt;i&gt;\n"
    )


def test_a_record_that_was_left_out_shifts_nothing(tmp_path: Path) -> None:
    items = [item for item in duplex(4, {2: 1.0}) if not (item[1] == 1 and item[0] == 1.5)]
    items.insert(3, (1.5, 0, Gap(num_records=1, num_bytes=64_000)))
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    recording = finalised(folder)

    assert recording["dropped_records"] == 1
    assert "user_audio" not in recording["chunks"][1]
    assert recording["chunks"][2]["result"]["text"] == "Answer 2 <b>"


def test_a_session_that_was_cut_says_so(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", duplex(3, {}), ended=False)
    with open(folder / JOURNAL, "ab") as file:
        file.write(b"\x99\x00\x00")

    recording = finalised(folder)

    assert recording["complete"] is False
    assert len(recording["chunks"]) == 3
    assert read(folder / "meta.json")["duration_s"] == 2.8


def test_what_was_begun_is_done_again(tmp_path: Path) -> None:
    """A finaliser may be killed anywhere: the journal goes last, and nothing is in the way."""
    folder = write_session(tmp_path / "d", "audio_duplex", duplex(3, {1: 1.0}))
    journal = (folder / JOURNAL).read_bytes()
    first = finalised(folder)

    (folder / JOURNAL).write_bytes(journal)
    (folder / "merged_replay.wav").write_bytes(b"half")
    second = finalised(folder)

    assert second == first
    assert stereo(folder / "merged_replay.wav")[0].size == 3 * 16_000


def test_a_session_that_is_held_is_left_alone(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", duplex(1, {}))
    with open(folder / JOURNAL, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(BlockingIOError):
            finalise(folder)

    assert (folder / JOURNAL).exists()


def test_nothing_to_finalise_is_said(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "audio_duplex", duplex(1, {}))
    finalise(folder)

    with pytest.raises(NotFound):
        finalise(folder)


@pytest.mark.parametrize("size", [0, 3, 8, 20])
@pytest.mark.parametrize("kind", ["audio_duplex", "chat"])
def test_a_session_whose_journal_was_never_written_ends_too(
    tmp_path: Path, kind: RequestType, size: int
) -> None:
    """It was tried again every ten minutes for ever, and its session seemed to run."""
    folder = write_session(tmp_path / "d", kind, [], started_at=1_700_000_000.0)
    (folder / JOURNAL).write_bytes((folder / JOURNAL).read_bytes()[:size])

    recording = finalised(folder)

    meta = read(folder / "meta.json")
    assert not (folder / JOURNAL).exists()
    assert (meta["ended_at"], meta["duration_s"]) == ("2023-11-14T22:13:20+00:00", 0.0)
    assert recording["complete"] is False and recording["session_id"] == "d"
    assert recording["turns" if kind == "chat" else "chunks"] == []


@pytest.mark.parametrize("meta", [b"", b"{", b"[]", b"{}", b'{"session_id": "d"}'])
def test_a_session_of_which_nothing_can_be_read_is_kept(tmp_path: Path, meta: bytes) -> None:
    folder = write_session(tmp_path / "d", "chat", [])
    (folder / JOURNAL).write_bytes(b"")
    (folder / "meta.json").write_bytes(meta)

    with pytest.raises(ProtocolError, match="neither the journal nor meta.json"):
        finalise(folder)

    assert (folder / JOURNAL).exists()


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "chat", [])
    (folder / JOURNAL).write_bytes(b"omnijrn9" + bytes(100))

    with pytest.raises(ProtocolError, match="not a journal"):
        finalise(folder)

    assert (folder / JOURNAL).exists()


def test_a_session_without_chunks_has_no_replay(tmp_path: Path) -> None:
    folder = write_session(tmp_path / "d", "omni_duplex", [])

    recording = finalised(folder)

    assert recording["chunks"] == [] and "merged_replay" not in recording


def test_what_the_user_said_and_what_failed_is_beside_the_chunks(tmp_path: Path) -> None:
    items = duplex(2, {})
    items += [
        (2.0, 0, UserTranscript(text="hello", final=True)),
        (2.0, 0, UserTranscript(text="hel", final=False)),
        (2.5, 0, Failed(code="generation_failed", message="no memory")),
        (2.5, 0, Diagnosed({"event": "gap"})),
    ]
    folder = write_session(tmp_path / "d", "audio_duplex", items)

    recording = finalised(folder)

    assert recording["transcripts"] == [{"ts_ms": 2000.0, "text": "hello"}]
    assert [error["code"] for error in recording["errors"]] == ["generation_failed"]
    assert (folder / "diagnostics.jsonl").read_bytes() == b'{"event":"gap"}\n'


def test_a_voice_and_what_was_said_before_are_not_what_the_user_says_now(tmp_path: Path) -> None:
    """The demo's viewer played the voice of a system message as the user's own."""
    heard = Part(kind="audio", data=tone(0.5))
    request = ChatRequest(
        messages=(
            ChatMessage(role="system", parts=(Part(kind="audio", data=tone(1.0)),)),
            ChatMessage(role="user", parts=(heard,)),
            ChatMessage(role="assistant", parts=(Part(kind="text", text="yes"),)),
            ChatMessage(role="user", parts=(Part(kind="text", text="why"),)),
        )
    )
    folder = write_session(tmp_path / "chat_2", "chat", [(0.0, 0, request)])

    (turn,) = finalised(folder)["turns"]

    assert turn["input"] == {"text": "why"}
    assert wav(folder / "user_audio/000.wav") == (16_000, 0.5)
    assert len(list((folder / "user_audio").iterdir())) == 1


def test_a_chat_is_one_turn_with_the_media_of_all_messages(tmp_path: Path) -> None:
    def user(*parts: Part) -> ChatMessage:
        return ChatMessage(role="user", parts=parts)

    request = ChatRequest(
        messages=(
            ChatMessage(role="system", parts=(Part(kind="text", text="be brief"),)),
            user(Part(kind="image", data=picture()), Part(kind="text", text="first")),
            ChatMessage(role="assistant", parts=(Part(kind="text", text="yes"),)),
            user(
                Part(kind="image", data=picture("PNG")),
                Part(kind="audio", data=tone(0.5)),
                Part(kind="video", data=b"\0\0\0\x18ftypmp42film"),
                Part(kind="text", text="second"),
            ),
        )
    )
    items: Items = [
        (0.0, 0, request),
        (0.5, 0, ReplyChunk(text="It ", pcm=answer(0.5))),
        (0.6, 0, ReplyChunk(text="is.", pcm=answer(0.25))),
        (0.75, 0, ChatDone(text="It is.", input_tokens=9, generated_tokens=4)),
    ]
    folder = write_session(tmp_path / "chat_1", "chat", items)

    recording = finalised(folder)

    assert recording["mode"] == "chat" and "chunks" not in recording
    assert recording["turns"] == [
        {
            "turn_index": 0,
            "request_ts_ms": 0.0,
            "input": {
                "text": "second",
                "audio": "user_audio/000.wav",
                "images": ["user_images/img_0.jpg", "user_images/img_1.jpg"],
                "videos": ["user_videos/vid_0.mp4"],
            },
            "output": {
                "text": "It is.",
                "audio": "ai_audio/turn_0.wav",
                "audio_duration_ms": 750.0,
            },
            "timing": {"elapsed_ms": 750.0, "tokens": 4, "input_tokens": 9},
        }
    ]
    assert (folder / "user_images/img_1.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert wav(folder / "ai_audio/turn_0.wav") == (24_000, 0.75)
    assert read(folder / "meta.json")["config"] == {
        "system_prompt": "be brief",
        "streaming": True,
        "ref_audio": False,
    }


def hands_free(*items: tuple[float, Item]) -> Items:
    opening: Items = [
        (0.0, 0, Opened(timeout_s=300.0)),
        (0.0, 0, PrepareHalfDuplex(system=(Part(kind="text", text="be kind"),))),
    ]
    return opening + [(at_s, 0, item) for at_s, item in items]


def test_a_hands_free_turn_has_its_utterance_and_its_answer(tmp_path: Path) -> None:
    quiet, loud = AudioChunk(pcm=tone(0.5, level=0.0)), AudioChunk(pcm=tone(0.5))
    items = hands_free(
        *[(n / 2, quiet) for n in range(8)],
        (4.0, loud),
        (4.1, VadState(speaking=True)),
        (4.5, loud),
        (5.0, quiet),
        (5.1, VadState(speaking=False)),
        (5.1, UserTranscript(text="what is it")),
        (5.2, Generating(speech_duration_ms=1500)),
        (5.7, ReplyChunk(text="That.", pcm=answer(1.0))),
        (6.2, TurnDone(turn_index=1, text="That.")),
    )
    folder = write_session(tmp_path / "hdx_1", "half_duplex_audio", items)

    recording = finalised(folder)

    assert recording["mode"] == "half_duplex_audio"
    (turn,) = recording["turns"]
    assert turn["input"] == {
        "type": "voice",
        "duration_ms": 1500,
        "audio": "user_audio/000.wav",
        "text": "what is it",
    }
    assert turn["output"]["audio"] == "ai_audio/turn_0.wav"
    assert turn["timing"] == {"elapsed_ms": 1000.0, "speech_input_ms": 1500}
    rate_hz, duration_s = wav(folder / "user_audio/000.wav")
    assert (rate_hz, duration_s) == (16_000, 2.0)  # 1 s before the detection, 1 s from it on
    config = read(folder / "meta.json")["config"]
    assert (config["system_content_count"], config["tts_enabled"]) == (1, True)
    assert config["timeout_s"] == 300.0
    assert config["vad"].keys() >= {"threshold"} and "max_new_tokens" in config["generation"]


def test_noise_that_was_no_turn_is_not_kept(tmp_path: Path) -> None:
    loud = AudioChunk(pcm=tone(0.5))
    items = hands_free(
        (0.5, loud),
        (0.6, VadState(speaking=True)),
        (0.7, VadState(speaking=False)),
        *[(n, loud) for n in range(1, 9)],
        (9.0, VadState(speaking=True)),
        (9.1, loud),
        (9.2, VadState(speaking=False)),
        (9.2, Generating(speech_duration_ms=800)),
        (9.9, TurnDone(turn_index=1, text="Yes.")),
    )
    folder = write_session(tmp_path / "hdx_1", "half_duplex_audio", items)

    (turn,) = finalised(folder)["turns"]

    assert turn["input"]["audio"] == "user_audio/000.wav"
    assert wav(folder / "user_audio/000.wav")[1] == 1.5
    assert len(list((folder / "user_audio").iterdir())) == 1


def test_functions_that_were_called_stand_with_the_answer(tmp_path: Path) -> None:
    items = hands_free(
        (2.0, Generating(speech_duration_ms=1000)),
        (2.5, ReplyChunk(text="One moment.")),
        (2.6, ToolCall(id="call_1", name="weather", arguments='{"place": "Köln"}')),
        (3.0, TurnDone(turn_index=1, text="One moment.")),
    )
    folder = write_session(tmp_path / "hdx_1", "half_duplex_audio", items)

    (turn,) = finalised(folder)["turns"]

    assert turn["output"] == {
        "text": "One moment.",
        "tool_calls": [{"name": "weather", "arguments": '{"place": "Köln"}'}],
    }


def test_a_turn_in_whose_midst_the_session_ended_has_what_was_said(tmp_path: Path) -> None:
    items = hands_free(
        (1.0, VadState(speaking=True)),
        (2.0, Generating(speech_duration_ms=1000)),
        (2.5, ReplyChunk(text="As I was ", pcm=answer(0.5))),
    )
    folder = write_session(tmp_path / "hdx_1", "half_duplex_audio", items, ended=False)

    (turn,) = finalised(folder)["turns"]

    assert turn["output"]["text"] == "As I was " and turn["output"]["interrupted"] is True
    assert wav(folder / "ai_audio/turn_0.wav") == (24_000, 0.5)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 40], ids=["empty", "gif", "png"]
)
def test_a_broken_picture_is_left_out(tmp_path: Path, data: bytes) -> None:
    items: Items = [(0.1, 0, AudioChunk(pcm=tone(1.0), frames=(Buffer(data),)))]
    folder = write_session(tmp_path / "d", "omni_duplex", items)

    (chunk,) = finalised(folder)["chunks"]

    assert "user_frame" not in chunk


def test_a_picture_that_would_fill_the_memory_is_left_out(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    items: Items = [(0.1, 0, AudioChunk(pcm=tone(1.0), frames=(Buffer(file.getvalue()),)))]
    folder = write_session(tmp_path / "d", "omni_duplex", items)

    (chunk,) = finalised(folder)["chunks"]

    assert "user_frame" not in chunk
