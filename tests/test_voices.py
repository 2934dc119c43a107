"""The registry of voices: kept on disk, whole or not at all, and bounded."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from omni.errors import NotFound, OmniError, TooLarge
from omni.voices import Voices
from omni.wav import wav_from_waveform, waveform_from_wav
from tests.fakes import TIMEOUT_S
from tests.sounds import tone

SECOND = tone(1.0, 16_000)


def opened(data_dir: Path, max_voices: int = 10, max_total_s: float = 60.0) -> Voices:
    voices = Voices(data_dir, max_voices, max_total_s)
    voices.load()
    return voices


def left_by_an_older_server(data_dir: Path, *names: str) -> None:
    folder = data_dir / "ref_audio"
    folder.mkdir(parents=True)
    lines = []
    for name in names:
        (folder / f"id-{name}.wav").write_bytes(wav_from_waveform(tone(1.0, 24_000), 24_000))
        line = {"id": f"id-{name}", "name": name, "filename": f"id-{name}.wav"}
        lines.append({**line, "source_type": "upload", "duration_ms": 1000, "created_at": "then"})
    (folder / "registry.json").write_text(json.dumps(lines))


async def test_a_voice_is_found_by_id_and_by_name(tmp_path: Path) -> None:
    voices = opened(tmp_path)
    first = await voices.add("Anna", SECOND)
    second = await voices.add("Anna", 0.5 * SECOND)

    by_id, by_name = await voices.find(first.id), await voices.find("anna")

    assert by_id is not None and by_name is not None
    assert by_name.id == second.id  # the newest of a name
    assert by_id.samples.dtype == np.float32
    np.testing.assert_allclose(by_id.samples, SECOND, atol=1e-4)
    assert await voices.find("nobody") is None


async def test_the_registry_on_disk_is_the_list_that_the_demo_writes(tmp_path: Path) -> None:
    entry = await opened(tmp_path).add("Ännä", SECOND)

    folder = tmp_path / "assets" / "ref_audio"
    text = (folder / "registry.json").read_text("utf-8")
    assert json.loads(text) == [
        {
            "id": entry.id,
            "name": "Ännä",
            "filename": f"{entry.id}.wav",
            "source_type": "upload",
            "duration_ms": 1000,
            "sample_rate": 16_000,
            "created_at": entry.created_at,
        }
    ]
    assert text.startswith("[\n  {\n") and "Ännä" in text
    assert waveform_from_wav((folder / entry.filename).read_bytes())[1] == 16_000
    assert {path.name for path in folder.iterdir()} == {"registry.json", entry.filename}


async def test_voices_outlive_the_server(tmp_path: Path) -> None:
    entry = await opened(tmp_path).add("Anna", SECOND)

    again = opened(tmp_path)

    assert again.entries() == [entry]
    assert await again.find("Anna") is not None


async def test_a_deleted_voice_is_gone_with_its_file(tmp_path: Path) -> None:
    voices = opened(tmp_path)
    entry = await voices.add("Anna", SECOND)
    path = voices.path(entry.id)

    await voices.remove(entry.id)

    assert not path.exists() and opened(tmp_path).entries() == []
    with pytest.raises(NotFound):
        await voices.remove(entry.id)
    with pytest.raises(NotFound):
        voices.path(entry.id)


async def test_what_an_older_server_left_is_taken_over_once(tmp_path: Path) -> None:
    left_by_an_older_server(tmp_path, "Anna", "Ben")

    voices = opened(tmp_path)
    found = await voices.find("Ben")
    await voices.remove("id-Anna")

    assert found is not None and found.samples.size == 16_000
    assert [entry.name for entry in opened(tmp_path).entries()] == ["Ben"]
    assert (tmp_path / "ref_audio" / "id-Anna.wav").exists()  # the older server's files stay


async def test_entries_that_cannot_be_trusted_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = await opened(tmp_path).add("Anna", SECOND)
    path = tmp_path / "assets" / "ref_audio" / "registry.json"
    (tmp_path / "secret.wav").write_bytes(b"")
    lines = json.loads(path.read_text())
    wrong = [{"id": "../../secret", "name": "x"}, {"id": "no-file"}, {}, 7, None]
    odd = {**lines[0], "duration_ms": float("nan")}
    path.write_text(json.dumps([odd, *wrong]))

    assert [entry.id for entry in opened(tmp_path).entries()] == [good.id]
    assert "left out" in caplog.text


@pytest.mark.parametrize("content", ["", "{}", "[", "7", "\udce4"])
async def test_a_broken_registry_is_set_aside(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "assets" / "ref_audio"
    folder.mkdir(parents=True)
    broken = content.encode("utf-8", "surrogateescape")
    (folder / "registry.json").write_bytes(broken)

    voices = opened(tmp_path)
    entry = await voices.add("Anna", SECOND)

    assert voices.entries() == opened(tmp_path).entries() == [entry]
    assert (folder / "registry.json.unreadable").read_bytes() == broken


async def test_a_full_registry_says_what_to_do(tmp_path: Path) -> None:
    few, short = opened(tmp_path / "few", max_voices=1), opened(tmp_path / "s", max_total_s=1.5)
    for voices in (few, short):
        await voices.add("first", SECOND)
        with pytest.raises(TooLarge, match="delete one first"):
            await voices.add("second", SECOND)
        await voices.remove(voices.entries()[0].id)
        await voices.add("second", SECOND)


async def test_a_client_that_hangs_up_leaves_the_list_as_it_is_on_disk(tmp_path: Path) -> None:
    """Its thread went on to write the voice, which only the disk knew from then on."""
    voices = opened(tmp_path)
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        adding = [group.create_task(voices.add(f"v{n}", SECOND), name="add") for n in range(8)]
        while not (tmp_path / "assets").exists():  # one of them has begun to write
            await asyncio.sleep(0)
        for task in adding:
            task.cancel()
    last = await voices.add("last", SECOND)

    await asyncio.get_running_loop().shutdown_default_executor()  # when all threads are done

    entries = voices.entries()
    assert entries == opened(tmp_path).entries() and last in entries
    folder = tmp_path / "assets" / "ref_audio"
    assert {path.name for path in folder.glob("*.wav")} == {e.filename for e in entries}


async def test_a_voice_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "assets").write_text("a file where a folder should be")
    voices = opened(tmp_path)

    with pytest.raises(OmniError, match="cannot be kept") as caught:
        await voices.add("Anna", SECOND)

    assert voices.entries() == []
    assert str(tmp_path) not in str(caught.value)  # a stranger may read it
