"""`omni model check`: a checkpoint directory against the specification, without loading weights.

Every file, every value of config.json, every tensor's name and shape (from the headers alone), the
tokens and the layout of token2wav. Each problem comes with its way out, all of them in one run.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, assert_never

import attrs
from attrs import frozen

from omni.errors import CheckpointError
from omni.minicpmo.checkpoint import StoredTensor, index_tensors
from omni.minicpmo.model.config import ModelConfig
from omni.minicpmo.tensor_table import WEIGHT_NORM_SPELLINGS, Shape, is_used, tensor_table
from omni.minicpmo.tiny_config import preprocessor_config
from omni.minicpmo.tiny_tokenizer import ADDED_TOKENS
from omni.minicpmo.token2wav_assets import (
    Layout,
    check_causal_config,
    find_layout,
    flow_config,
    hift_config,
    read_tensors,
)
from omni.minicpmo.token2wav_table import (
    HIFT_PREFIX,
    FlowSizes,
    HiftSizes,
    flow_table,
    hift_table,
)
from omni.minicpmo.tokenizer import Tokenizer

Level = Literal["ok", "note", "error"]

_FETCH = "fetch it again: omni model fetch"
_OTHER_MODEL = "model.model_path must name a MiniCPM-o 4.5; omni model fetch downloads it"
_ONNX_FILES = ("campplus.onnx", "speech_tokenizer_v2_25hz.onnx")
_ONNX_GRAPH = 7  # field of the ModelProto
_LARGE_SUFFIXES = (".safetensors", ".pt", ".onnx")
_MAX_NAMES = 5
_PUBLISHED = ModelConfig.from_fields({"model_type": "minicpmo", "version": "4.5"})


@frozen(kw_only=True)
class Finding:
    """One line of the report. error: the engine will not start; note: it will, but look."""

    level: Level
    subject: str
    text: str
    way_out: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `omni model check`; returns 0 where the engine can start, else 1."""
    parser = argparse.ArgumentParser(prog="omni model check", description=__doc__)
    parser.add_argument("directory", type=Path)
    findings = check_checkpoint(parser.parse_args(argv).directory)
    print(render(findings))
    return 0 if is_usable(findings) else 1


def is_usable(findings: Sequence[Finding]) -> bool:
    """Tell whether the engine can start."""
    return all(finding.level != "error" for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """Return *findings* as a table, the way out below each problem; the last line sums up."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{_mark(finding.level)}  {finding.subject:{width}}  {finding.text}")
        if finding.way_out:
            lines.append(f"       {'':{width}}  -> {finding.way_out}")
    counts = Counter(finding.level for finding in findings)
    verdict = "the engine can load it" if is_usable(findings) else "the engine cannot load it"
    return "\n".join([*lines, f"{counts['error']} errors, {counts['note']} notes: {verdict}"])


def _mark(level: Level) -> str:
    match level:
        case "ok":
            return "ok   "
        case "note":
            return "note "
        case "error":
            return "ERROR"
    assert_never(level)


def check_checkpoint(directory: Path) -> list[Finding]:
    """Return everything worth saying about *directory*, problems or not. Reads no weights."""
    if not directory.is_dir():
        text = "there is no such directory"
        return [_error(str(directory), text, "omni model fetch downloads the published model")]
    findings = _check_pointers(directory)
    config: ModelConfig | None = None
    try:
        config = ModelConfig.from_directory(directory)
        findings += _check_config(config)
    except CheckpointError as exc:
        findings.append(_error("config.json", str(exc), _OTHER_MODEL))
    findings += _guarded("preprocessor", lambda: _check_preprocessor(directory))
    findings += _guarded("tokenizer", lambda: _check_tokenizer(directory, config))
    findings += _guarded("weights", lambda: _check_weights(directory, config))
    findings += _check_token2wav(directory / "assets" / "token2wav")
    return findings + _check_voices(directory / "assets")


def _error(subject: str, text: str, way_out: str = _FETCH) -> Finding:
    return Finding(level="error", subject=subject, text=text, way_out=way_out)


def _note(subject: str, text: str, way_out: str = "") -> Finding:
    return Finding(level="note", subject=subject, text=text, way_out=way_out)


def _fine(subject: str, text: str) -> Finding:
    return Finding(level="ok", subject=subject, text=text)


def _guarded(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what *check* finds; what it refuses is a finding too."""
    try:
        return check()
    except CheckpointError as exc:
        return [_error(subject, str(exc))]


def _check_pointers(directory: Path) -> list[Finding]:
    """Find files that git has left as pointers, the usual harm of a clone without git-lfs."""
    pointers = [
        path.relative_to(directory).as_posix()
        for path in sorted(directory.rglob("*"))
        if path.suffix in _LARGE_SUFFIXES and path.is_file() and _begins_as_pointer(path)
    ]
    if not pointers:
        return []
    text = f"git-lfs pointers in place of the files: {_some(pointers)}"
    return [_error("files", text, "run git lfs pull there, or: omni model fetch")]


def _begins_as_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20).startswith(b"version https://git-")


def _check_config(config: ModelConfig) -> list[Finding]:
    if config == _PUBLISHED:
        return [_fine("config.json", "MiniCPM-o 4.5, every value as published")]
    return [
        _fine("config.json", "MiniCPM-o 4.5"),
        _note("config.json", f"differs from the published one: {_some(_differences(config))}"),
    ]


def _differences(config: ModelConfig) -> list[str]:
    ours, published = _flat(attrs.asdict(config)), _flat(attrs.asdict(_PUBLISHED))
    return [
        f"{name} {value} (published {published[name]})"
        for name, value in ours.items()
        if value != published[name]
    ]


def _flat(fields: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check_preprocessor(directory: Path) -> list[Finding]:
    subject = "preprocessor"
    try:
        fields = json.loads((directory / "preprocessor_config.json").read_text(encoding="utf-8"))
    except OSError:
        return [_note(subject, "preprocessor_config.json is missing: the published values hold")]
    except ValueError as exc:
        return [_error(subject, f"preprocessor_config.json is not JSON: {exc}")]
    fixed = ("scale_resolution", "patch_size", "image_feature_size", "norm_mean", "norm_std")
    wanted = {name: value for name, value in preprocessor_config().items() if name in fixed}
    wrong = [
        f"{name} is {fields[name]}, must be {value}"
        for name, value in wanted.items()
        if name in fields and fields[name] != value
    ]
    if wrong:
        return [_error(subject, _some(wrong), "this engine has been written for those values")]
    return [_fine(subject, "image sizes and normalisation as published")]


def _check_tokenizer(directory: Path, config: ModelConfig | None) -> list[Finding]:
    tokenizer = Tokenizer.from_directory(directory)
    size = tokenizer.vocab_size
    findings = [_fine("tokenizer", f"{size} tokens, every control token by its name")]
    if config is not None and size > config.llm.vocab_size:
        text = f"{size} tokens, but config.json has {config.llm.vocab_size} rows for them"
        findings = [_error("tokenizer", text, "take tokenizer and config of one model")]
    missing = [text for text in ADDED_TOKENS if not _has(tokenizer, text)]
    if missing:
        findings.append(_note("tokenizer", f"added tokens that are missing: {_some(missing)}"))
    if "bad_token_ids" not in tokenizer.config:
        text = "tokenizer_config.json has no bad_token_ids: brackets may be spoken"
        findings.append(_note("tokenizer", text, _FETCH))
    if not isinstance(tokenizer.config.get("chat_template"), str):
        findings.append(_error("tokenizer", "tokenizer_config.json has no chat_template"))
    return findings


def _has(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return tokenizer.id(text) >= 0
    except CheckpointError:
        return False


def _check_weights(directory: Path, config: ModelConfig | None) -> list[Finding]:
    stored = index_tensors(directory)
    if config is None:
        return [_note("weights", f"{len(stored)} tensors; config.json does not say which")]
    config = _as_deep_as_stored(config, stored)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    table = tensor_table(config)
    used = {name: shape for name, shape in table.items() if is_used(name)}
    findings = _compared("weights", used, {n: s for n, s in shapes.items() if is_used(n)})
    if findings[0].level == "ok":
        num_bytes = sum(tensor.num_bytes for tensor in stored.values())
        text = f"{len(stored)} tensors, {num_bytes / 1e9:.2f} GB, every name and shape right"
        findings[0] = _fine("weights", text)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()}
    if kinds != {"bfloat16"}:
        text = f"stored as {', '.join(sorted(kinds))}; published as bfloat16"
        findings.append(_note("weights", text, "they are converted while loading, which is slower"))
    return findings


def _as_deep_as_stored(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return *config* with the vision layers that there are: some files drop the unused last."""
    prefix = "vpm.encoder.layers."
    found = {name.removeprefix(prefix).split(".")[0] for name in stored if name.startswith(prefix)}
    if len(found) != config.vision.num_layers - 1:
        return config
    return attrs.evolve(config, vision=attrs.evolve(config.vision, num_layers=len(found)))


def _compared(
    subject: str, wanted: Mapping[str, Shape], found: Mapping[str, Shape]
) -> list[Finding]:
    """Compare names and shapes. The first finding is the verdict on what is wanted."""
    missing = [name for name in wanted if name not in found]
    wrong = [
        f"{name} is {found[name]}, must be {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    left_over = [name for name in found if name not in wanted]
    findings = []
    if missing:
        findings.append(_error(subject, f"{len(missing)} tensors are missing: {_some(missing)}"))
    if wrong:
        text = f"{len(wrong)} tensors have another shape: {_some(wrong)}"
        findings.append(_error(subject, text, "take config and weights of one model"))
    if not findings:
        findings.append(_fine(subject, f"{len(wanted)} tensors, every name and shape right"))
    if left_over:
        text = f"{len(left_over)} tensors that nobody knows: {_some(left_over)}"
        findings.append(_note(subject, text, "they are ignored"))
    return findings


def _check_token2wav(folder: Path) -> list[Finding]:
    subject = "token2wav"
    try:
        layout = find_layout(folder)
    except CheckpointError as exc:
        return [_error(subject, str(exc), _layout_hint(folder))]
    findings = [_fine(subject, f"layout: {layout.value}")]
    for name in _ONNX_FILES:
        if not _is_whole_onnx(folder / name):
            findings.append(_error(subject, f"{name} is cut short, or no ONNX model"))
    findings += _guarded("flow", lambda: _check_flow(folder))
    is_causal = layout is Layout.CAUSAL
    findings += _guarded("vocoder", lambda: _check_vocoder(folder / "hift.pt", is_causal))
    if is_causal:
        findings += _guarded("vocoder", lambda: _check_causal(folder))
    return findings


def _layout_hint(folder: Path) -> str:
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return f"there are: {_some(there)}" if there else "speech needs this folder; " + _FETCH


def _is_whole_onnx(path: Path) -> bool:
    """Walk the outermost fields of the protobuf message: they must end where the file ends."""
    size, has_graph = path.stat().st_size, False
    with path.open("rb") as file:
        while (at := file.tell()) < size:
            tag = _varint(file)
            has_graph |= tag >> 3 == _ONNX_GRAPH
            match tag & 7:
                case 0:
                    _varint(file)
                case 2:
                    # In this order: the length's own bytes are read before the place is taken.
                    length = _varint(file)
                    file.seek(file.tell() + length)
                case _:
                    return False  # a ModelProto has no other kinds
            if file.tell() == at:
                return False
        return has_graph and file.tell() == size


def _varint(file: BinaryIO) -> int:
    """Read an integer of seven bits a byte, lowest first; 0 at the end of the file."""
    value, shift = 0, 0
    while byte := file.read(1):
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80 or shift > 63:
            break
    return value


def _check_flow(folder: Path) -> list[Finding]:
    config = flow_config(folder / "flow.yaml")
    encoder, dit = config.encoder, config.dit
    sizes = FlowSizes(
        hidden_size=encoder.hidden,
        heads=encoder.heads,
        num_blocks=encoder.token_layers,
        num_up_blocks=encoder.mel_layers,
        linear_units=encoder.ffn,
        dit_depth=dit.depth,
        dit_hidden_size=dit.hidden,
        dit_heads=dit.heads,
        dit_head_dim=dit.head_dim,
        dit_mlp_ratio=dit.mlp_hidden / dit.hidden,
    )
    return _compared("flow", flow_table(sizes), _shapes(folder / "flow.pt"))


def _check_vocoder(path: Path, is_causal: bool) -> list[Finding]:
    tensors = read_tensors(path)
    named = {name.removeprefix(HIFT_PREFIX): tensor for name, tensor in tensors.items()}
    config = hift_config(named, path)
    sizes = HiftSizes(
        base_channels=config.base_channels, f0_channels=config.f0_channels, is_causal=is_causal
    )
    return _compared("vocoder", hift_table(sizes), _shapes(path))


def _check_causal(folder: Path) -> list[Finding]:
    check_causal_config(folder / "config.yaml")
    return [_fine("vocoder", "config.yaml: the causal vocoder that this engine knows")]


def _shapes(path: Path) -> dict[str, Shape]:
    """Return name -> shape of a .pt file (mapped, not read), in today's spelling."""
    shapes = {}
    for name, tensor in read_tensors(path).items():
        name = name.removeprefix(HIFT_PREFIX)
        for today, former in WEIGHT_NORM_SPELLINGS:
            name = name.replace(former, today)
        shapes[name] = tuple(tensor.shape)
    return shapes


def _check_voices(assets: Path) -> list[Finding]:
    voices = sorted(path.name for path in assets.glob("*.wav"))
    if voices:
        return [_fine("voices", f"reference recordings: {_some(voices)}")]
    text = "no reference recording in assets/*.wav"
    return [_note("voices", text, "set audio.ref_audio_path to a recording of 3 to 10 s")]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
