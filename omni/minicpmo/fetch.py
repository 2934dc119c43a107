"""`omni model fetch`: a model from a hub to a directory; and the way from an id to a directory."""

import argparse
import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import aiohttp
from attrs import define

from omni.errors import CheckpointError, OmniError
from omni.minicpmo.fetch_progress import FetchProgress, gigabytes
from omni.minicpmo.hubs import (
    DEFAULT_MODEL,
    Hub,
    RemoteFile,
    hub_of,
    hugging_face_home,
    is_model_id,
    is_wanted,
)
from omni.minicpmo.transfer import PART_SUFFIX, Pause, Transfer

#: A directory beside the final one, until every file is there.
PARTIAL_SUFFIX = ".partial"

_INDEX = "model.safetensors.index.json"
_NUM_PARALLEL = 4
_SPARE_BYTES = 512 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)

FreeBytes = Callable[[Path], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `omni model fetch`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="omni model fetch", description=__doc__)
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="ID",
        help=f"Hugging Face id, or modelscope:ID; default {DEFAULT_MODEL}. "
        "HF_ENDPOINT names a mirror, HF_TOKEN a key",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: DATA_DIR/models/ORG--NAME")
    parser.add_argument("--revision", default="", help="branch, tag or commit")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DATA_DIR")
    options = parser.parse_args(argv)
    target = options.to or model_directory(options.model, options.data_dir)
    try:
        fetch_model(options.model, target, options.revision)
    except OmniError as exc:
        print(f"omni model fetch: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"the model is in {target}; check it with: omni model check {target}")
    return 0


def resolve_model(
    path_or_id: str, data_dir: Path, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the directory of a model: as named, fetched before, in the hub's cache, or new.

    Blocks for as long as the download takes. Call it where no event loop runs.
    Raises: CheckpointError, when it is neither a directory nor an id that can be fetched.
    """
    if (found := find_model(path_or_id, data_dir, environ)) is not None:
        return found
    fetched = model_directory(path_or_id, data_dir)
    fetch_model(path_or_id, fetched, environ=environ)
    return fetched.resolve()


def find_model(
    path_or_id: str, data_dir: Path, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """Return the directory of a model that is on this machine; None where it must be fetched.

    Raises: CheckpointError, when it is neither a directory nor an id.
    """
    directory = Path(path_or_id).expanduser()
    if directory.is_dir():
        return directory.resolve()
    if directory.is_file():
        raise CheckpointError(f"{path_or_id} is a file; name the directory of the checkpoint")
    if not is_model_id(path_or_id):
        raise CheckpointError(
            f"{path_or_id}: there is no such directory, and it is no model id like {DEFAULT_MODEL}"
        )
    fetched = model_directory(path_or_id, data_dir)
    return fetched.resolve() if fetched.is_dir() else _cached_by_hub(path_or_id, environ)


def model_directory(model: str, data_dir: Path) -> Path:
    """Return where the model of an id lies after a fetch."""
    return data_dir / "models" / model.rpartition(":")[2].replace("/", "--")


def _cached_by_hub(model: str, environ: Mapping[str, str]) -> Path | None:
    """Return the copy that Hugging Face's own tools have left in their cache, if it is whole."""
    if "modelscope" in model.partition(":")[0]:
        return None
    cache = Path(environ.get("HF_HUB_CACHE") or hugging_face_home(environ) / "hub")
    folder = cache / f"models--{model.rpartition(':')[2].replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if all((snapshot / name).is_file() for name in _needed(snapshot)) else None


def _needed(snapshot: Path) -> set[str]:
    """Return the files without which a directory is no model, all shards of its index included."""
    needed = {"config.json", "tokenizer_config.json", "assets/token2wav/flow.pt"}
    try:
        index = json.loads((snapshot / _INDEX).read_text(encoding="utf-8"))
        return needed | set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return needed | {"model.safetensors"}


def fetch_model(
    model: str,
    target: Path,
    revision: str = "",
    *,
    environ: Mapping[str, str] = os.environ,
    out: TextIO | None = None,
    pause: Pause = asyncio.sleep,
    free_bytes: FreeBytes | None = None,
) -> None:
    """Fetch *model* into the new directory *target*; a fetch that broke off is continued.

    Everything is written to a directory beside it, which takes its name when all hashes are right.
    Raises: CheckpointError with the way out: a full disk, no such model, no access, no network.
    """
    if target.exists() and not (target.is_dir() and _is_empty(target)):
        raise CheckpointError(f"{target}: is there already; remove it, or name another with --to")
    hub = hub_of(model, environ)
    progress = FetchProgress(out=sys.stderr if out is None else out)
    fetch = _Fetch(hub, revision, target, progress, pause, free_bytes or _free_bytes)
    try:
        asyncio.run(fetch.run())
    except (ExceptionGroup, aiohttp.ClientError, OSError) as failure:
        raise _explained(_first(failure), hub) from failure
    finally:
        progress.finish()


def _is_empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


def _first(failure: Exception) -> Exception:
    """Return the first of a group of failures; the others are cancellations or more of the same."""
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


@define
class _Fetch:
    """One download of a model."""

    hub: Hub
    revision: str
    target: Path
    progress: FetchProgress
    pause: Pause
    free_bytes: FreeBytes

    async def run(self) -> None:
        partial = self.target.with_name(self.target.name + PARTIAL_SUFFIX)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
            listed = await self.hub.files(session, self.revision)
            files = [file for file in listed if is_wanted(file.path)]
            if not files:
                raise CheckpointError(f"{self.hub.page}: holds no file of a model")
            partial.mkdir(parents=True, exist_ok=True)
            self._check_space(files, partial)
            self.progress.start(sum(file.size_bytes for file in files))
            await self._fetch_all(session, files, partial)
        if self.target.exists():
            self.target.rmdir()  # empty, as checked at the start
        os.replace(partial, self.target)

    def _check_space(self, files: Sequence[RemoteFile], partial: Path) -> None:
        there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        needed = sum(file.size_bytes for file in files) - there + _SPARE_BYTES
        free = self.free_bytes(partial)
        if needed > free:
            raise CheckpointError(
                f"{partial.parent}: {gigabytes(needed)} are needed, {gigabytes(free)} are free; "
                "make room, or choose another disk with --to or service.data_dir"
            )

    async def _fetch_all(
        self, session: aiohttp.ClientSession, files: Sequence[RemoteFile], partial: Path
    ) -> None:
        transfer = Transfer(session, self.hub.headers, self.progress.advance, self.pause)
        places = asyncio.Semaphore(_NUM_PARALLEL)

        async def fetch(file: RemoteFile) -> None:
            target = partial / file.path
            async with places:
                if target.is_file() and target.stat().st_size == file.size_bytes:
                    self.progress.advance(file.size_bytes)  # its hash was compared when it came
                else:
                    await transfer.fetch(file, target)

        async with asyncio.TaskGroup() as group:
            # The largest first, so that no large one is left alone at the end.
            for file in sorted(files, key=lambda file: -file.size_bytes):
                group.create_task(fetch(file), name=f"fetch {file.path}")
        _remove_strangers(files, partial)


def _remove_strangers(files: Sequence[RemoteFile], partial: Path) -> None:
    """Remove what an earlier fetch of another version has left behind."""
    known = {partial / file.path for file in files}
    for path in partial.rglob("*"):
        if path.is_file() and (path not in known or path.name.endswith(PART_SUFFIX)):
            path.unlink()


def _explained(error: Exception, hub: Hub) -> Exception:
    """Return *error* as what went wrong and what to do; one of ours, or unknown, as it is."""
    if not isinstance(error, aiohttp.ClientError | OSError):
        return error
    if isinstance(error, aiohttp.ClientResponseError):
        return CheckpointError(_explained_status(error, hub))
    if not isinstance(error, aiohttp.ClientError | TimeoutError | ConnectionError):
        where = error.filename or "the disk"
        return CheckpointError(
            f"{where}: cannot be written: {error.strerror or error}. Make room or choose another "
            "place with --to; the same command goes on from here."
        )
    return CheckpointError(
        f"{hub.name} cannot be reached ({str(error) or type(error).__name__}). Check the network "
        "and the proxy settings; where huggingface.co is blocked, set HF_ENDPOINT to a mirror, or "
        "fetch modelscope:OpenBMB/MiniCPM-o-4_5. The same command goes on from here."
    )


def _explained_status(error: aiohttp.ClientResponseError, hub: Hub) -> str:
    if error.status in (401, 403):
        return (
            f"{hub.model_id}: {hub.name} refuses access ({error.status}). The name may be wrong, "
            f"or the model needs your consent: open {hub.page}, then {hub.token_hint}."
        )
    if error.status == 404:
        return (
            f"{hub.model_id}: {hub.name} has no such model, revision or file "
            f"({error.request_info.real_url}). Check the name."
        )
    if error.status == 429:
        return (
            f"{hub.name} has had too many requests from here (429). Wait some minutes, or "
            f"{hub.token_hint}. The same command goes on from here."
        )
    return (
        f"{hub.name} answers with status {error.status} ({error.message}). The same command goes "
        "on from here."
    )


if __name__ == "__main__":
    sys.exit(main())
