"""A model's files on the Hugging Face Hub or on ModelScope: names, sizes, digests, addresses."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol  # Any: JSON of a hub
from urllib.parse import quote, urlencode

import aiohttp
from attrs import field, frozen

from omni.errors import CheckpointError

#: Hugging Face's id of the model, taken where no other is named.
DEFAULT_MODEL = "openbmb/MiniCPM-o-4_5"

_HUGGING_FACE = "https://huggingface.co"
_MODELSCOPE = "https://www.modelscope.cn"
_MODELSCOPE_PREFIXES = ("modelscope:", "ms:")
_HUGGING_FACE_PREFIXES = ("huggingface:", "hf:")
_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Pages of one listing; a hub that goes on for ever is broken.
_MAX_PAGES = 100

#: What the engine may read. Code from a hub and the legacy vocoder are not among it.
_WANTED_SUFFIXES = (".json", ".jinja", ".txt", ".safetensors", ".wav", ".yaml", ".pt", ".onnx")
_WANTED_NAMES = ("LICENSE", "README.md")
_SKIPPED_FOLDERS = ("assets/CosyVoice2-0.5B/",)


@frozen(kw_only=True)
class Digest:
    """The hash that a hub tells of a file. git: SHA-1 of a git blob, which begins with the size."""

    kind: Literal["sha256", "git", "none"]
    hexadecimal: str = ""


@frozen(kw_only=True)
class RemoteFile:
    """One file. path: below the model's directory, with slashes, checked to stay inside of it."""

    path: str
    size_bytes: int
    digest: Digest
    url: str


class Hub(Protocol):
    """Where a model's files come from. `model_id`, `name` and `page` are for people."""

    @property
    def name(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def page(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The key, where one is set. aiohttp drops it when a redirect leaves the host."""
        ...

    @property
    def token_hint(self) -> str:
        """How to hand over a key, in words."""
        ...

    async def files(self, session: aiohttp.ClientSession, revision: str) -> list[RemoteFile]:
        """List all files of *revision*; empty: the newest.

        Raises: aiohttp.ClientError; CheckpointError for an answer that makes no sense.
        """
        ...


def hub_of(model: str, environ: Mapping[str, str] = os.environ) -> Hub:
    """Return the hub that *model* names: `Org/Name`, `hf:Org/Name` or `modelscope:Org/Name`.

    HF_ENDPOINT and MODELSCOPE_DOMAIN name mirrors. Raises: CheckpointError for something else.
    """
    for prefix in _MODELSCOPE_PREFIXES:
        if model.startswith(prefix):
            domain = environ.get("MODELSCOPE_DOMAIN", "") or _MODELSCOPE
            endpoint = domain if "://" in domain else f"https://{domain}"
            token = environ.get("MODELSCOPE_API_TOKEN", "")
            return ModelScope(_checked_id(model.removeprefix(prefix)), endpoint.rstrip("/"), token)
    for prefix in _HUGGING_FACE_PREFIXES:
        model = model.removeprefix(prefix)
    endpoint = environ.get("HF_ENDPOINT", "") or _HUGGING_FACE
    return HuggingFace(_checked_id(model), endpoint.rstrip("/"), _hugging_face_token(environ))


def is_model_id(model: str) -> bool:
    """Tell whether *model* has the form of an id, rather than of a path."""
    bare = model
    for prefix in (*_MODELSCOPE_PREFIXES, *_HUGGING_FACE_PREFIXES):
        bare = bare.removeprefix(prefix)
    return _ID.fullmatch(bare) is not None and not bare.startswith(".")


def _checked_id(model_id: str) -> str:
    if not is_model_id(model_id):
        raise CheckpointError(
            f"{model_id!r} is no model id; write {DEFAULT_MODEL}, modelscope:OpenBMB/MiniCPM-o-4_5 "
            "or the path of a directory"
        )
    return model_id


def hugging_face_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory where huggingface_hub keeps its cache and its token."""
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()


def _hugging_face_token(environ: Mapping[str, str]) -> str:
    if token := environ.get("HF_TOKEN", ""):
        return token
    try:
        return (hugging_face_home(environ) / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@frozen
class HuggingFace:
    """The Hugging Face Hub or a mirror of it."""

    model_id: str
    endpoint: str
    token: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return f"the Hugging Face Hub ({self.endpoint})"

    @property
    def page(self) -> str:
        return f"{self.endpoint}/{self.model_id}"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def token_hint(self) -> str:
        return "set HF_TOKEN to a token of yours (huggingface.co/settings/tokens)"

    async def files(self, session: aiohttp.ClientSession, revision: str) -> list[RemoteFile]:
        """The revision is resolved to a commit first: an update in between cannot mix versions."""
        api = f"{self.endpoint}/api/models/{self.model_id}"
        chosen = quote(revision or "main", safe="")
        about, _ = await _get(session, f"{api}/revision/{chosen}", self.headers)
        commit = quote(str(_fields(about, api).get("sha") or revision or "main"), safe="")
        url: str | None = f"{api}/tree/{commit}?recursive=true"
        found: list[RemoteFile] = []
        for _ in range(_MAX_PAGES):
            if url is None:
                return found
            rows, url = await _get(session, url, self.headers)
            found += self._listed(rows, commit)
        raise CheckpointError(f"{self.page}: the list of files has no end")

    def _listed(self, rows: object, commit: str) -> Iterator[RemoteFile]:
        for row in _rows(rows, self.page):
            if row.get("type") == "file":
                path = str(row.get("path"))
                large = row.get("lfs")
                digest = Digest(kind="git", hexadecimal=str(row.get("oid", "")))
                if isinstance(large, dict):
                    digest = Digest(kind="sha256", hexadecimal=str(large.get("oid", "")))
                url = f"{self.endpoint}/{self.model_id}/resolve/{commit}/{quote(path)}"
                yield _remote_file(path, row.get("size"), digest, url)


@frozen
class ModelScope:
    """modelscope.cn."""

    model_id: str
    endpoint: str
    token: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return f"ModelScope ({self.endpoint})"

    @property
    def page(self) -> str:
        return f"{self.endpoint}/models/{self.model_id}"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def token_hint(self) -> str:
        return "set MODELSCOPE_API_TOKEN to a token of yours"

    async def files(self, session: aiohttp.ClientSession, revision: str) -> list[RemoteFile]:
        """List all files of *revision*; empty: master."""
        chosen = revision or "master"
        api = f"{self.endpoint}/api/v1/models/{self.model_id}/repo"
        query = urlencode({"Revision": chosen, "Recursive": "true"})
        answer, _ = await _get(session, f"{api}/files?{query}", self.headers)
        data = _fields(_fields(answer, self.page).get("Data") or {}, self.page)
        found = []
        for row in _rows(data.get("Files"), self.page):
            if row.get("Type") != "tree":
                path = str(row.get("Path"))
                url = f"{api}?{urlencode({'Revision': chosen, 'FilePath': path})}"
                sha256 = str(row.get("Sha256") or "")
                digest = Digest(kind="sha256" if sha256 else "none", hexadecimal=sha256)
                found.append(_remote_file(path, row.get("Size"), digest, url))
        return found


def is_wanted(path: str) -> bool:
    """Tell whether the engine may read the file at *path*."""
    if path.startswith(_SKIPPED_FOLDERS):
        return False
    return path.endswith(_WANTED_SUFFIXES) or path in _WANTED_NAMES


async def _get(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
) -> tuple[object, str | None]:
    """Return the JSON document at *url*, and the address of the next page if there is one."""
    async with session.get(url, headers=headers) as answer:
        answer.raise_for_status()
        try:
            document: object = json.loads(await answer.read())
        except ValueError as exc:
            raise CheckpointError(f"{url}: the answer is not JSON; is this a hub?") from exc
        link = answer.links.get("next")
    following = None if link is None else link.get("url")
    return document, None if following is None else str(following)


def _remote_file(path: str, size: object, digest: Digest, url: str) -> RemoteFile:
    """Raises: CheckpointError for a size that is none, and for a path that would leave the model's
    directory: a hub is not trusted with the rest of the disk.
    """
    parts = PurePosixPath(path).parts
    is_inside = parts and parts[0] != "/" and ".." not in parts and "\\" not in path
    if not is_inside or ":" in parts[0] or "\0" in path:
        raise CheckpointError(f"the hub lists a file at {path!r}, outside of the model")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise CheckpointError(f"the hub gives {path} a size of {size!r}")
    return RemoteFile(path=path, size_bytes=size, digest=digest, url=url)


def _fields(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: the answer is not a JSON object")
    return value


def _rows(value: object, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise CheckpointError(f"{where}: the answer holds no list of files")
    return value
