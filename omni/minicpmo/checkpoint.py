"""The published checkpoint directory -> modules on a device: every name and shape checked.

On a GPU the files are read by several threads through pinned buffers straight into the modules' own
memory (measured elsewhere with these sizes: 18.7 GB in 0.84-1.8 s; `safetensors.load_file` 6-9 s).
On a CPU they are mapped. Neither way holds a second copy of the weights in host memory.
"""

import json
import logging
import mmap
import os
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from omni.errors import CheckpointError
from omni.minicpmo.model.attention import forbid_cudnn_attention
from omni.minicpmo.model.audio_encoder import AudioEncoder, AudioLayer
from omni.minicpmo.model.config import ModelConfig
from omni.minicpmo.model.layers import materialize
from omni.minicpmo.model.llm import Llm
from omni.minicpmo.model.tts import Tts
from omni.minicpmo.model.vision import Vision
from omni.minicpmo.tensor_table import is_used

log = logging.getLogger(__name__)

_NUM_READERS = 8  # threads, with one staging buffer each; more did not read faster on 16 cores
_STAGING_BYTES = 64 * 1024 * 1024
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_OLD_NAMES = {
    "tts.head_code.0.weight_g": "tts.head_code.0.parametrizations.weight.original0",
    "tts.head_code.0.weight_v": "tts.head_code.0.parametrizations.weight.original1",
}
_MAX_NAMES_SHOWN = 8


class MiniCpmO(nn.Module):
    """All trained modules but token2wav, which has files of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.llm = Llm(config.llm)
        self.vision = Vision(config.vision, config.resampler)
        self.audio = AudioEncoder(config.audio)
        self.tts = Tts(config.tts)

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every published name that is used and the memory that it fills."""
        for prefix, tensors in (
            ("llm.", self.llm.checkpoint_tensors()),
            ("vpm.", self.vision.tower.checkpoint_tensors()),
            ("resampler.", self.vision.resampler.checkpoint_tensors()),
            ("", self.audio.checkpoint_tensors()),
            ("tts.", self.tts.checkpoint_tensors()),
        ):
            for name, tensor in tensors:
                yield prefix + name, tensor


@frozen(kw_only=True)
class StoredTensor:
    """Where one tensor lies: *offset* counts from the start of the file."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@frozen(kw_only=True)
class LoadReport:
    """What a load did. left_over: names in the files that no module takes."""

    num_tensors: int
    num_bytes: int
    seconds: float
    left_over: tuple[str, ...]
    overridden: tuple[str, ...]


def load_checkpoint(
    directory: Path, device: torch.device, dtype: torch.dtype, pt_path: Path | None = None
) -> tuple[MiniCpmO, LoadReport]:
    """Return the modules of *directory*, on *device* in *dtype*, ready for inference.

    *pt_path*: a state dict (loaded with weights_only) whose tensors replace those of the directory.
    Raises: CheckpointError for a missing, truncated or foreign file and for every missing tensor or
    wrong shape, and when the GPU has too little memory; nothing is loaded then.
    """
    started = time.monotonic()
    config = ModelConfig.from_directory(directory)
    stored = index_tensors(directory)
    config = _fit_vision_layers(config, stored)
    with torch.device("meta"):
        model = MiniCpmO(config)
    left_over = check_names(dict(model.checkpoint_tensors()), stored)
    if device.type == "cuda":
        forbid_cudnn_attention()
        needed = sum(parameter.numel() * dtype.itemsize for parameter in model.parameters())
        require_memory(needed, torch.cuda.mem_get_info(device)[0])
    materialize(model, device, dtype)
    targets = dict(model.checkpoint_tensors())
    with torch.no_grad():
        fill(targets, stored, device)
        overridden = _override(targets, pt_path)
        for module in model.modules():
            if isinstance(module, (AudioLayer, Tts)):
                module.finish_loading()
    report = LoadReport(
        num_tensors=len(targets),
        num_bytes=sum(stored[name].num_bytes for name in targets),
        seconds=time.monotonic() - started,
        left_over=left_over,
        overridden=overridden,
    )
    log.info("loaded %d tensors from %s in %.1f s", len(targets), directory, report.seconds)
    return model, report


def require_memory(needed_bytes: int, free_bytes: int) -> None:
    """Raise CheckpointError when the weights do not fit, saying by how much."""
    if needed_bytes > free_bytes:
        needed, free = (count / 2**30 for count in (needed_bytes, free_bytes))
        raise CheckpointError(
            f"the weights take {needed:.1f} GiB of GPU memory and {free:.1f} GiB are free: "
            f"{needed - free:.1f} GiB are missing; end other programs on this GPU or choose "
            "another with --gpus"
        )


def index_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a directory's safetensors files by its present-day name.

    Raises: CheckpointError, when there is no file, one of the index is missing, or one is cut
    short.
    """
    stored: dict[str, StoredTensor] = {}
    for path in _weight_files(directory):
        for name, tensor in _read_header(path):
            name = _OLD_NAMES.get(name, name)
            if name in stored:
                raise CheckpointError(f"{path}: {name} stands in {stored[name].path} too")
            stored[name] = tensor
    return stored


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{directory}: holds no *.safetensors file; fetch it again")
        return files
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise CheckpointError(f"{index}: not an index of safetensors files: {exc!r}") from exc
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(f"{index}: names files that are not there: {_shown(missing)}")
    return [directory / name for name in names]


def _read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of one file. Source: the safetensors format (length, JSON header, data)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise CheckpointError(f"{path}: not a safetensors file, or cut short")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            yield name, _stored_tensor(path, name, entry, 8 + length + begin, end - begin, size)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CheckpointError(f"{path}: broken safetensors header: {exc!r}") from exc


def _stored_tensor(
    path: Path, name: str, entry: Mapping[str, object], offset: int, num_bytes: int, size: int
) -> StoredTensor:
    if offset + num_bytes > size:
        raise CheckpointError(
            f"{path}: cut short: {name} ends at byte {offset + num_bytes} of {size}; fetch it again"
        )
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise CheckpointError(
            f"{path}: {name} has dtype {entry['dtype']}; allowed: {list(_DTYPES)}"
        )
    dims = entry["shape"]
    if not isinstance(dims, list):
        raise CheckpointError(f"{path}: {name} has no shape")
    shape = tuple(int(dim) for dim in dims)
    if num_bytes != torch.Size(shape).numel() * dtype.itemsize:
        raise CheckpointError(f"{path}: {name} has {num_bytes} bytes for shape {shape}")
    return StoredTensor(path=path, dtype=dtype, shape=shape, offset=offset, num_bytes=num_bytes)


def _fit_vision_layers(config: ModelConfig, names: Iterable[str]) -> ModelConfig:
    """Return *config* with the vision depth of the files: some drop the unused last layer."""
    prefix = "vpm.encoder.layers."
    found = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    depth = config.vision.num_layers
    if len(found) == depth and config.vision.drop_last_layer or len(found) == depth - 1:
        depth -= 1
    return attrs.evolve(config, vision=attrs.evolve(config.vision, num_layers=depth))


def check_names(
    targets: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]
) -> tuple[str, ...]:
    """Return the names that nobody takes, having logged them.

    Raises: CheckpointError, listing tensors that are missing or have another shape.
    """
    missing = sorted(targets.keys() - stored.keys())
    if missing:
        raise CheckpointError(f"{len(missing)} tensors are missing: {_shown(missing)}")
    wrong = [
        f"{name} is {stored[name].shape}, must be {tuple(target.shape)}"
        for name, target in targets.items()
        if stored[name].shape != tuple(target.shape)
    ]
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors have another shape: {_shown(wrong)}")
    left_over = tuple(sorted(name for name in stored.keys() - targets.keys() if is_used(name)))
    if left_over:
        log.warning("%d tensors are not used: %s", len(left_over), _shown(left_over))
    return left_over


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MAX_NAMES_SHOWN
    return ", ".join(listed[:_MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def fill(
    targets: Mapping[str, Tensor], stored: Mapping[str, StoredTensor], device: torch.device
) -> None:
    """Copy the stored tensors into *targets*: mapped on a CPU, staged in parallel elsewhere."""
    if device.type == "cpu":
        _fill_mapped(targets, stored)
    else:
        fill_staged(targets, stored, device)


def _fill_mapped(targets: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> None:
    by_file: dict[Path, list[str]] = {}
    for name in targets:
        by_file.setdefault(stored[name].path, []).append(name)
    for path, names in by_file.items():
        with path.open("rb") as file:
            # Private, because torch wants writable memory; nothing is written, no page is copied.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        for name in names:
            entry = stored[name]
            count = torch.Size(entry.shape).numel()
            source = torch.frombuffer(mapped, dtype=entry.dtype, count=count, offset=entry.offset)
            targets[name].copy_(source.view(entry.shape))


def fill_staged(
    targets: Mapping[str, Tensor],
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    num_readers: int = _NUM_READERS,
    staging_bytes: int = _STAGING_BYTES,
) -> None:
    """Read with *num_readers* threads into staging buffers (pinned for a GPU), copy from there."""
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sorted(targets, key=lambda name: -stored[name].num_bytes):
        names.put(name)
    with ThreadPoolExecutor(num_readers, thread_name_prefix="weights") as readers:
        reads = [
            readers.submit(_Reader(device, staging_bytes).run, names, targets, stored)
            for _ in range(num_readers)
        ]
        for read in reads:
            read.result()


class _Reader:
    """One thread's staging buffer (two halves in turn), stream and open files."""

    def __init__(self, device: torch.device, staging_bytes: int) -> None:
        self._device = device
        self._has_stream = device.type == "cuda"
        half = staging_bytes // 2
        pinned = self._has_stream
        self._halves = [torch.empty(half, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._stream = torch.cuda.Stream(device) if self._has_stream else None
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def run(
        self,
        names: "queue.SimpleQueue[str]",
        targets: Mapping[str, Tensor],
        stored: Mapping[str, StoredTensor],
    ) -> None:
        """Take names until none is left."""
        files: dict[Path, int] = {}
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                while True:
                    try:
                        name = names.get_nowait()
                    except queue.Empty:
                        break
                    entry = stored[name]
                    if entry.path not in files:
                        files[entry.path] = os.open(entry.path, os.O_RDONLY)
                    self._copy(files[entry.path], entry, targets[name])
            if self._stream is not None:
                self._stream.synchronize()
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    def _copy(self, descriptor: int, entry: StoredTensor, target: Tensor) -> None:
        if target.dtype == entry.dtype and target.is_contiguous():
            self._read_into(descriptor, entry, target.view(-1).view(torch.uint8))
            return
        raw = torch.empty(entry.num_bytes, dtype=torch.uint8, device=self._device)
        self._read_into(descriptor, entry, raw)
        target.copy_(raw.view(entry.dtype).view(entry.shape))

    def _read_into(self, descriptor: int, entry: StoredTensor, target: Tensor) -> None:
        """Fill *target* (bytes on the device) in pieces of half a staging buffer."""
        done = 0
        while done < entry.num_bytes:
            half, event = self._halves[self._turn], self._copied[self._turn]
            if event is not None:
                event.synchronize()
            count = min(half.numel(), entry.num_bytes - done)
            _read_exactly(descriptor, half[:count], entry.offset + done, entry.path)
            target[done : done + count].copy_(half[:count], non_blocking=True)
            if self._stream is not None:
                event = torch.cuda.Event()
                event.record(self._stream)
                self._copied[self._turn] = event
            self._turn = 1 - self._turn
            done += count


def _read_exactly(descriptor: int, target: Tensor, offset: int, path: Path) -> None:
    view = memoryview(target.numpy().data)
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise CheckpointError(f"{path}: ended while it was read; fetch it again")
        view, offset = view[count:], offset + count


def _override(targets: Mapping[str, Tensor], pt_path: Path | None) -> tuple[str, ...]:
    """Replace targets by the tensors of a .pt state dict; return their names."""
    if pt_path is None:
        return ()
    try:
        loaded = torch.load(pt_path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as exc:  # torch raises many kinds for a broken or unsafe file
        raise CheckpointError(f"{pt_path}: not a plain state dict: {exc}") from exc
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{pt_path}: must map names to tensors and hold nothing else")
    tensors = {str(_OLD_NAMES.get(name, name)): tensor for name, tensor in loaded.items()}
    used = {name: tensor for name, tensor in tensors.items() if is_used(name)}
    unknown = sorted(used.keys() - targets.keys())
    if unknown:
        raise CheckpointError(f"{pt_path}: tensors that the model lacks: {_shown(unknown)}")
    for name, tensor in used.items():
        if tensor.shape != targets[name].shape:
            wanted = tuple(targets[name].shape)
            raise CheckpointError(f"{pt_path}: {name} is {tuple(tensor.shape)}, must be {wanted}")
    for name, tensor in used.items():
        targets[name].copy_(tensor)
    return tuple(sorted(used))
