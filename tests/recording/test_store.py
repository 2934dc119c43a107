"""The sessions on disk: listing, comments, deletion, clean-up, zip files, and safe paths."""

import io
import os
import re
import zipfile
from pathlib import Path

import orjson
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.errors import ClientError, Forbidden, NotFound, ProtocolError, TooLarge
from omni.recording.cleanup import Cleaner, clean
from omni.recording.finalise import finalise
from omni.recording.journal import JournalWriter
from omni.recording.layout import JOURNAL, META, asset_path, write_json
from omni.recording.store import SessionStore
from omni.recording.zipped import zip_pieces
from omni.settings import RecordingSettings
from tests.fakes import until
from tests.recording.stage import read, write_session

NOW = 1_800_000_000.0
DAY_S = 86_400
OFF = RecordingSettings()


def session(data_dir: Path, name: str, age_days: float = 0.0, num_bytes: int = 1000) -> Path:
    """Make a finalised session of that age and size."""
    folder = data_dir / "sessions" / name
    write_session(folder, "audio_duplex", [], started_at=NOW - age_days * DAY_S)
    finalise(folder)
    (folder / "user_audio" / "000.wav").write_bytes(bytes(num_bytes))
    write_json(folder / META, {**read(folder / META), "size_bytes": num_bytes})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore.of(tmp_path)


def test_the_newest_session_stands_first(tmp_path: Path, store: SessionStore) -> None:
    for name, age_days in (("a", 3), ("b", 1), ("c", 2)):
        session(tmp_path, name, age_days)

    assert [entry.session_id for entry in store.entries()] == ["b", "c", "a"]
    assert {entry.size_bytes for entry in store.entries()} == {1000}


def test_there_may_be_no_sessions_at_all(store: SessionStore) -> None:
    assert store.entries() == []
    with pytest.raises(NotFound):
        store.folder_of("a")


def test_a_change_by_another_process_is_seen(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a")
    store.entries()

    write_json(folder / META, {**read(folder / META), "title": "changed"})
    (folder / "frontend_replay.webm").write_bytes(bytes(500))

    (entry,) = store.entries()
    assert (entry.meta["title"], entry.size_bytes) == ("changed", 1500)


def test_sessions_of_another_server_are_listed_with_their_size(
    tmp_path: Path, store: SessionStore
) -> None:
    folder = tmp_path / "sessions" / "old"
    (folder / "ai_audio").mkdir(parents=True)
    (folder / "ai_audio" / "turn_0.wav").write_bytes(bytes(2000))
    meta = {"session_id": "old", "created_at": "2025-06-01T10:00:00.5+00:00", "duration_s": None}
    write_json(folder / META, meta)

    (entry,) = store.entries()

    assert entry.size_bytes is not None
    assert 2000 < entry.size_bytes < 2300 and not entry.is_live
    assert store.entry("old").size_bytes == entry.size_bytes


def foreign(data_dir: Path, count: int) -> None:
    """Make finished sessions that do not name their size."""
    for number in range(count):
        folder = data_dir / "sessions" / f"old_{number}"
        folder.mkdir(parents=True)
        meta = {"session_id": folder.name, "created_at": "2025-06-01T10:00:00+00:00"}
        write_json(folder / META, meta)


def test_a_list_measures_so_many_sessions_and_the_next_ones_the_rest(
    tmp_path: Path, store: SessionStore
) -> None:
    """1,000 sessions of another server took 0.67 s: all of their files were looked through."""
    foreign(tmp_path, 5)

    known = []
    for _ in range(3):
        sizes = [entry.size_bytes for entry in store.entries(max_measured=2)]
        known.append(sum(size is not None for size in sizes))

    assert known == [2, 4, 5]


def test_what_was_measured_before_need_not_be_by_the_list(
    tmp_path: Path, store: SessionStore
) -> None:
    foreign(tmp_path, 3)
    cleaner = Cleaner(store, OFF, first_pass_s=3600, interval_s=3600)
    cleaner.start()
    try:
        until(lambda: all(entry.size_bytes for entry in store.entries(max_measured=0)))
    finally:
        cleaner.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"created_at": "yesterday"}'])
def test_a_folder_without_readable_meta_is_not_listed(
    tmp_path: Path, store: SessionStore, content: bytes
) -> None:
    (tmp_path / "sessions" / "x").mkdir(parents=True)
    (tmp_path / "sessions" / "x" / META).write_bytes(content)

    assert store.entries() == []


def test_a_comment_is_kept_replaced_and_deleted(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a")
    assert store.comment("a") == ""

    store.set_comment("a", "很好 👍")
    assert store.comment("a") == "很好 👍"
    assert (folder / "comment.txt").read_text("utf-8") == "很好 👍"

    store.set_comment("a", "x" * 2000)
    with pytest.raises(TooLarge):
        store.set_comment("a", "x" * 2001)
    assert len(store.comment("a")) == 2000

    store.set_comment("a", " ")
    assert store.comment("a") == "" and not (folder / "comment.txt").exists()


def test_a_deleted_session_is_gone(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a")

    store.delete("a")

    assert not folder.exists() and store.entries() == []
    assert list((tmp_path / "sessions").iterdir()) == []
    with pytest.raises(NotFound):
        store.delete("a")


def test_a_session_that_runs_is_never_deleted(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a", age_days=90)
    meta = read(folder / META)
    del meta["size_bytes"]
    write_json(folder / META, {**meta, "ended_at": None, "duration_s": None})
    journal = JournalWriter.create(folder / JOURNAL)

    with pytest.raises(Forbidden):
        store.delete("a")
    report = clean(store, evolve(OFF, session_retention_days=1, max_storage_gb=1e-9), NOW)
    assert report["deleted"] == 0 and folder.exists()
    assert store.entry("a").is_live

    journal.close()
    assert clean(store, evolve(OFF, session_retention_days=1), NOW)["deleted_expired"] == 1
    assert not folder.exists()


# --- clean-up ----------------------------------------------------------------------------------


def test_without_limits_nothing_is_looked_at(tmp_path: Path, store: SessionStore) -> None:
    session(tmp_path, "a", age_days=10_000)

    report = clean(store, OFF, NOW)

    assert report.pop("message")
    assert report == {"status": "skipped", "deleted": 0}


def test_old_sessions_go(tmp_path: Path, store: SessionStore) -> None:
    for name, age_days in (("old", 8.1), ("older", 30), ("young", 6.9)):
        session(tmp_path, name, age_days, num_bytes=2**20)
    (tmp_path / "sessions" / "strange").mkdir()

    report = clean(store, evolve(OFF, session_retention_days=7), NOW)

    assert report == {
        "status": "ok",
        "scanned": 4,
        "deleted": 2,
        "deleted_expired": 2,
        "deleted_capacity": 0,
        "remaining": 2,
        "remaining_size_mb": 1.0,
        "errors": ["strange: no readable meta.json"],
    }
    assert {path.name for path in (tmp_path / "sessions").iterdir()} == {"young", "strange"}


def test_the_oldest_go_until_the_rest_fits(tmp_path: Path, store: SessionStore) -> None:
    for age_days in range(5):
        session(tmp_path, f"s{age_days}", age_days, num_bytes=2**20)

    report = clean(store, evolve(OFF, max_storage_gb=2.5 / 1024), NOW)

    assert (report["deleted_capacity"], report["remaining"]) == (3, 2)
    assert {entry.session_id for entry in store.entries()} == {"s0", "s1"}


def test_what_a_crash_left_of_a_deletion_goes_at_the_next_pass(
    tmp_path: Path, store: SessionStore
) -> None:
    left = tmp_path / "sessions" / ".deleted-1234"
    left.mkdir(parents=True)
    (left / "x.wav").write_bytes(b"x")

    clean(store, OFF, NOW)

    assert not left.exists()


def test_the_cleaner_cleans_soon_after_its_start(tmp_path: Path, store: SessionStore) -> None:
    session(tmp_path, "a", age_days=20_000)
    limits = evolve(OFF, session_retention_days=7)

    cleaner = Cleaner(store, limits, first_pass_s=0.0, interval_s=3600.0)
    cleaner.start()
    until(lambda: cleaner.last_report is not None)
    cleaner.close()

    assert cleaner.last_report is not None and cleaner.last_report["deleted"] == 1


# --- zip ---------------------------------------------------------------------------------------


def test_a_zip_holds_every_file_below_the_sessions_name(tmp_path: Path) -> None:
    folder = session(tmp_path, "a", num_bytes=700_000)
    (folder / ".upload-1").write_bytes(b"half")
    (folder / "link.json").symlink_to("/etc/hostname")

    pieces = list(zip_pieces(folder, "a"))

    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("a/meta.json") == (folder / META).read_bytes()
    assert sorted(names) == ["a/meta.json", "a/recording.json", "a/user_audio/000.wav"]
    assert max(map(len, pieces)) < 600_000


@pytest.mark.parametrize("name", ["..\\..\\evil.txt", "C:evil.txt", "a\nb.txt", "-rf"])
def test_no_name_in_a_zip_leads_out_of_where_it_is_unpacked(tmp_path: Path, name: str) -> None:
    """Zip slip: a recording that came from elsewhere may hold files of any name."""
    folder = session(tmp_path, "a")
    (folder / name).write_bytes(b"evil")
    (folder / "..\\folder").mkdir()
    (folder / "..\\folder" / "inner.txt").write_bytes(b"evil")

    with zipfile.ZipFile(io.BytesIO(b"".join(zip_pieces(folder, "a")))) as archive:
        names = [each.orig_filename for each in archive.infolist()]

    safe = re.compile(r"a/([A-Za-z0-9_]+/)?[A-Za-z0-9_]+\.\w+")
    assert [each for each in names if not safe.fullmatch(each)] == []
    assert "a/meta.json" in names


# --- paths -------------------------------------------------------------------------------------

BAD = [
    "..",
    "../a/meta.json",
    "user_audio/../meta.json",
    "user_audio/../../other/meta.json",
    "/etc/passwd",
    "//etc/passwd",
    "a\\..\\meta.json",
    "..\\meta.json",
    "meta.json\0.wav",
    "\0",
]
ABSENT = [
    "",
    ".",
    "./meta.json",
    "user_audio//000.wav",
    "user_audio/",
    "user_audio",
    "x" * 5000,
    "user_audio/" + "x" * 300 + ".wav",
    ".hidden.json",
    "journal.omni",
    "meta.json.bak",
    "%2e%2e/meta.json",
    "user_audio/000.WAV",
    "link.json",
    "folder/meta.json",
    "CON\u202e.wav",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = session(tmp_path, "a")
    (tmp_path / "outside.json").write_text("{}")
    (made / "link.json").symlink_to(tmp_path / "outside.json")
    (made / "folder").symlink_to(made / "user_audio")
    (made / JOURNAL).write_bytes(b"")
    return made


@pytest.mark.parametrize("name", BAD)
def test_a_path_that_leaves_the_session_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ProtocolError):
        asset_path(folder, name)


@pytest.mark.parametrize("name", ABSENT)
def test_a_path_that_names_no_file_of_the_session_finds_none(folder: Path, name: str) -> None:
    with pytest.raises(NotFound):
        asset_path(folder, name)


@settings(max_examples=300)
@given(name=st.text() | st.lists(st.sampled_from(["..", ".", "a", "", "\\"])).map("/".join))
def test_no_path_at_all_leads_outside(folder: Path, name: str) -> None:
    try:
        path = asset_path(folder, name)
    except ClientError:
        return

    assert os.path.commonpath([path.resolve(), folder.resolve()]) == str(folder.resolve())


def test_a_file_of_the_session_is_found(folder: Path) -> None:
    assert asset_path(folder, "user_audio/000.wav") == folder / "user_audio" / "000.wav"


NO_IDS = ["..", "a/b", ".", "", "a\0", "x" * 161, "a.b", "%2e", "..\\a", "é"]


@pytest.mark.parametrize("name", NO_IDS)
def test_an_id_that_is_none_finds_no_session(store: SessionStore, folder: Path, name: str) -> None:
    for ask in (store.folder_of, store.entry, store.delete, store.comment):
        with pytest.raises(NotFound):
            ask(name)


def test_a_session_that_is_a_link_is_none(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a")
    (tmp_path / "sessions" / "b").symlink_to(folder)

    assert [entry.session_id for entry in store.entries()] == ["a"]
    with pytest.raises(NotFound):
        store.folder_of("b")


def test_the_index_is_json_as_it_was_written(tmp_path: Path, store: SessionStore) -> None:
    folder = session(tmp_path, "a")

    assert store.read("a", META) == (folder / META).read_bytes()
    assert orjson.loads(store.read("a", "recording.json"))["session_id"] == "a"
    (folder / "recording.json").unlink()
    with pytest.raises(NotFound):
        store.read("a", "recording.json")
