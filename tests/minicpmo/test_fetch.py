"""Fetching from a hub on loopback: resumed, checked, refused in words that help."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from omni.errors import CheckpointError
from omni.minicpmo.fetch import fetch_model, main, model_directory, resolve_model
from omni.minicpmo.fetch_progress import FetchProgress
from omni.minicpmo.hubs import hub_of, is_model_id, is_wanted
from tests.minicpmo.hub_server import FakeHub, serve

MODEL = "somebody/Model-4_5"
SHARD = "model-00001-of-00001.safetensors"
CUT_BYTES = 3_000_000
#: What aiohttp has not handed over when a connection ends is lost: two pieces and one read.
LOST_BYTES = 1_000_000


class Pauses:
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)


class Fetch(Protocol):
    """Fetches a model to `tmp_path / "model"` and returns that."""

    def __call__(self, model: str = MODEL, free: int = 1 << 40) -> Path: ...


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached directly, whatever the machine's proxy settings are."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {
        "config.json": b'{"model_type": "minicpmo"}',
        SHARD: bytes(range(256)) * 16_000,
        "assets/token2wav/flow.pt": b"flow" * 5000,
        "assets/CosyVoice2-0.5B/llm.pt": b"legacy",
        "modeling.py": b"raise SystemExit",
        "assets/picture.png": b"png",
    }
    with serve(FakeHub(files)) as running:
        yield running


@pytest.fixture
def environ(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "MODELSCOPE_DOMAIN": hub.url,
        "HF_HOME": str(tmp_path / "hugging-face"),
    }


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def fetch(environ: dict[str, str], tmp_path: Path, pauses: Pauses) -> Fetch:
    def run(model: str = MODEL, free: int = 1 << 40) -> Path:
        target = tmp_path / "model"
        fetch_model(
            model,
            target,
            environ=environ,
            out=io.StringIO(),
            pause=pauses,
            free_bytes=lambda _: free,
        )
        return target

    return run


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def starts(hub: FakeHub) -> list[int]:
    """Return from which byte on the shard was asked for, request by request."""
    asked = [place for path, place in hub.ranges if path == SHARD]
    return [int(place.removeprefix("bytes=").rstrip("-") or 0) for place in asked]


@pytest.mark.parametrize("model", [MODEL, f"hf:{MODEL}", f"modelscope:{MODEL}", f"ms:{MODEL}"])
def test_either_hub_gives_all_files_of_the_model_and_none_of_its_code(
    fetch: Fetch, hub: FakeHub, model: str
) -> None:
    wanted = {"config.json", SHARD, "assets/token2wav/flow.pt"}

    assert contents(fetch(model)) == {name: hub.files[name] for name in wanted}


def test_a_listing_of_several_pages_is_read_to_its_end(fetch: Fetch, hub: FakeHub) -> None:
    hub.page_size = 2

    assert len(contents(fetch())) == 3


def test_a_broken_connection_is_continued_where_it_broke(
    fetch: Fetch, hub: FakeHub, pauses: Pauses
) -> None:
    hub.cuts[SHARD] = [CUT_BYTES, 10_000]

    assert contents(fetch())[SHARD] == hub.files[SHARD]
    first, second, third = starts(hub)
    assert first == 0
    assert CUT_BYTES - LOST_BYTES <= second <= CUT_BYTES
    assert second <= third <= second + 10_000
    assert pauses.asked_s[0] == 1.0


def test_a_fetch_that_was_given_up_goes_on_in_the_next_run(
    fetch: Fetch, hub: FakeHub, tmp_path: Path
) -> None:
    hub.cuts[SHARD] = [CUT_BYTES] + [0] * 5
    with pytest.raises(CheckpointError, match="The same command goes on"):
        fetch()
    assert not (tmp_path / "model").exists()
    hub.ranges.clear()

    assert contents(fetch())[SHARD] == hub.files[SHARD]
    (start,) = starts(hub)
    assert CUT_BYTES - LOST_BYTES <= start <= CUT_BYTES


def test_files_that_are_complete_are_not_fetched_again(fetch: Fetch, hub: FakeHub) -> None:
    hub.cuts[SHARD] = [10] + [0] * 5
    with pytest.raises(CheckpointError):
        fetch()
    fetched = {path for path, _ in hub.ranges} - {SHARD}
    hub.ranges.clear()

    fetch()

    assert fetched and not fetched & {path for path, _ in hub.ranges}


def test_a_server_without_ranges_sends_all_over_again(fetch: Fetch, hub: FakeHub) -> None:
    hub.knows_ranges = False
    hub.cuts[SHARD] = [100_000]

    assert contents(fetch())[SHARD] == hub.files[SHARD]


def test_a_part_of_an_older_version_is_dropped(fetch: Fetch, hub: FakeHub, tmp_path: Path) -> None:
    part = tmp_path / "model.partial" / f"{SHARD}.part"
    part.parent.mkdir()
    part.write_bytes(b"older" * 1000)

    assert contents(fetch())[SHARD] == hub.files[SHARD]


@pytest.mark.parametrize("name", [SHARD, "config.json"])
@pytest.mark.parametrize("model", [MODEL, f"modelscope:{MODEL}"])
def test_a_file_with_another_hash_is_refused_and_not_kept(
    fetch: Fetch, hub: FakeHub, tmp_path: Path, name: str, model: str
) -> None:
    """Large files have a SHA-256; small ones on Hugging Face the hash of a git blob."""
    hub.forged[name] = bytes(len(hub.files[name]))

    with pytest.raises(CheckpointError, match=f"{name}: .*does not have the size and the hash"):
        fetch(model)
    assert not (tmp_path / "model").exists()
    assert name not in contents(tmp_path / "model.partial")


def test_a_file_longer_than_told_is_refused(fetch: Fetch, hub: FakeHub) -> None:
    hub.forged[SHARD] = hub.files[SHARD] + b"more"

    with pytest.raises(CheckpointError, match="longer than"):
        fetch()


def test_a_busy_hub_is_asked_again_after_the_time_that_it_names(
    fetch: Fetch, hub: FakeHub, pauses: Pauses
) -> None:
    hub.statuses[SHARD] = [429, 503]

    assert contents(fetch())[SHARD] == hub.files[SHARD]
    assert pauses.asked_s == [7.0, 7.0]


def test_a_file_that_is_listed_but_missing_is_named(fetch: Fetch, hub: FakeHub) -> None:
    hub.statuses[SHARD] = [404]

    with pytest.raises(CheckpointError, match=f"no such model, revision or file.*{SHARD}"):
        fetch()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refuses access .* set HF_TOKEN"),
        (403, "needs your consent: open http://127.0.0.1.*/somebody/Model-4_5"),
        (404, "no such model"),
        (429, "too many requests .* goes on from here"),
        (500, "status 500"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(
    fetch: Fetch, hub: FakeHub, status: int, words: str
) -> None:
    hub.status = status

    with pytest.raises(CheckpointError, match=words):
        fetch()


def test_an_unreachable_hub_names_the_mirror_settings(tmp_path: Path) -> None:
    with serve(FakeHub({})) as gone:
        pass

    with pytest.raises(CheckpointError, match="cannot be reached .* set HF_ENDPOINT"):
        fetch_model(MODEL, tmp_path / "model", environ={"HF_ENDPOINT": gone.url})


def test_a_hub_that_is_none_is_refused(fetch: Fetch, hub: FakeHub) -> None:
    hub.files.clear()

    with pytest.raises(CheckpointError, match="holds no file of a model"):
        fetch()


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil.json", "a/../../evil.json"])
def test_a_file_outside_of_the_model_is_refused(
    fetch: Fetch, hub: FakeHub, tmp_path: Path, path: str
) -> None:
    hub.files[path] = b"{}"

    with pytest.raises(CheckpointError, match="outside of the model"):
        fetch()
    assert not list(tmp_path.rglob("evil.json"))


def test_a_full_disk_is_told_before_anything_is_fetched(fetch: Fetch, hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="0.5 GB are needed, 0.0 GB are free"):
        fetch(free=1000)
    assert hub.ranges == []


def test_a_directory_that_is_there_is_left_alone(
    fetch: Fetch, hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="is there already"):
        fetch()
    assert contents(tmp_path / "model") == {"mine.txt": b"mine"}


def test_the_token_of_the_environment_is_sent(
    fetch: Fetch, hub: FakeHub, environ: dict[str, str]
) -> None:
    environ["HF_TOKEN"] = "hf_secret"

    fetch()

    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_a_token_is_not_in_the_text_of_a_hub() -> None:
    assert "hf_secret" not in repr(hub_of(MODEL, {"HF_TOKEN": "hf_secret"}))


def test_a_directory_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path), tmp_path / "data") == tmp_path


def test_an_id_is_fetched_once(hub: FakeHub, environ: dict[str, str], tmp_path: Path) -> None:
    first = resolve_model(MODEL, tmp_path / "data", environ)
    hub.ranges.clear()

    second = resolve_model(MODEL, tmp_path / "data", environ)

    assert first == second == tmp_path / "data/models/somebody--Model-4_5"
    assert (first / SHARD).is_file()
    assert hub.ranges == []


def test_a_whole_copy_in_the_cache_of_hugging_face_is_taken(
    hub: FakeHub, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "hugging-face/hub/models--somebody--Model-4_5"
    names = ("config.json", "tokenizer_config.json", "model.safetensors")
    snapshot = _snapshot(folder, (*names, "assets/token2wav/flow.pt"))

    assert resolve_model(MODEL, tmp_path / "data", environ) == snapshot
    assert hub.ranges == []


def test_a_copy_in_the_cache_that_lacks_a_shard_is_not_taken(
    hub: FakeHub, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "hugging-face/hub/models--somebody--Model-4_5"
    names = ("config.json", "tokenizer_config.json", "assets/token2wav/flow.pt")
    snapshot = _snapshot(folder, names)
    index = '{"weight_map": {"llm.model.norm.weight": "model-00001-of-00004.safetensors"}}'
    (snapshot / "model.safetensors.index.json").write_text(index)

    assert resolve_model(MODEL, tmp_path / "data", environ) != snapshot


def _snapshot(folder: Path, names: tuple[str, ...]) -> Path:
    snapshot = folder / "snapshots" / "abc"
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(b"{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc\n")
    return snapshot


@pytest.mark.parametrize("path", ["./nowhere", "/no/where/at/all", "nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_no_id(path: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        resolve_model(path, tmp_path)


def test_a_file_in_place_of_a_directory_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()

    with pytest.raises(CheckpointError, match="is a file; name the directory"):
        resolve_model(str(path), tmp_path)


@pytest.mark.parametrize(
    ("model", "is_one"),
    [("openbmb/MiniCPM-o-4_5", True), ("ms:A/b", True), ("hf:A/b", True), ("../b", False)],
)
def test_ids_are_told_from_paths(model: str, is_one: bool) -> None:
    assert is_model_id(model) is is_one


def test_two_hubs_have_two_pages_and_one_place_on_disk(tmp_path: Path) -> None:
    assert hub_of("ms:A/b", {}).page == "https://www.modelscope.cn/models/A/b"
    assert hub_of("A/b", {}).page == "https://huggingface.co/A/b"
    assert model_directory("ms:A/b", tmp_path) == model_directory("A/b", tmp_path)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("assets/token2wav/campplus.onnx", True),
        ("assets/HT_ref_audio.wav", True),
        ("merges.txt", True),
        ("modeling_minicpmo.py", False),
        ("assets/CosyVoice2-0.5B/flow.pt", False),
        ("assets/demo.mp4", False),
    ],
)
def test_only_what_the_engine_reads_is_wanted(path: str, wanted: bool) -> None:
    assert is_wanted(path) is wanted


def test_progress_in_a_log_is_a_line_now_and_then_with_the_speed() -> None:
    now_s = [100.0]
    out = io.StringIO()
    progress = FetchProgress(out=out, clock=lambda: now_s[0])
    progress.start(20_000_000)
    for _ in range(20):
        now_s[0] += 0.5
        progress.advance(1_000_000)

    lines = out.getvalue().splitlines()
    assert len(lines) == 20
    assert lines[-1] == "0.0 GB of 0.0 GB  100 %  2.0 MB/s  0 min left"


def test_the_command_fetches_and_says_where(
    hub: FakeHub,
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", environ["HF_ENDPOINT"])

    status = main([MODEL, "--to", str(tmp_path / "here")])

    assert status == 0
    assert f"omni model check {tmp_path / 'here'}" in capsys.readouterr().out
    assert (tmp_path / "here" / SHARD).is_file()


def test_the_command_says_what_is_wrong_without_a_traceback(
    hub: FakeHub,
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.status = 404
    monkeypatch.setenv("HF_ENDPOINT", environ["HF_ENDPOINT"])

    assert main([MODEL, "--to", str(tmp_path / "here")]) == 2
    assert "no such model" in capsys.readouterr().err
