"""Loads the token2wav folder of a checkpoint: every file, name and shape is checked."""

import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import yaml  # type: ignore[import-untyped]  # PyYAML has no stubs of its own
from attrs import frozen
from torch import Tensor, nn
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from omni.errors import CheckpointError
from omni.minicpmo.model.dit import DiTConfig
from omni.minicpmo.model.flow import Flow, FlowConfig
from omni.minicpmo.model.flow_encoder import LOOKAHEAD, UPSAMPLE, EncoderConfig
from omni.minicpmo.model.hift import Hift
from omni.minicpmo.model.hift_causal import CausalHift
from omni.minicpmo.model.hift_decoder import HiftConfig

COMMON_FILES = ("flow.yaml", "flow.pt", "hift.pt", "campplus.onnx", "speech_tokenizer_v2_25hz.onnx")
CAUSAL_FILES = ("config.yaml", "hift_original.pt")
#: What the modules' own constructors call.
_DRAWS = ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_")
MAX_NAMES_SHOWN = 8
# Values that the code is written for. Source: the published flow.yaml and config.yaml.
FLOW_VALUES = {"input_layer": "linear", "pre_lookahead_len": LOOKAHEAD, "up_stride": UPSAMPLE}
HIFT_VALUES = {
    "nb_harmonics": 8,
    "sampling_rate": 24_000,
    "nsf_alpha": 0.1,
    "nsf_sigma": 0.003,
    "nsf_voiced_threshold": 10,
    "upsample_rates": [8, 5, 3],
    "upsample_kernel_sizes": [16, 11, 7],
    "istft_params": {"n_fft": 16, "hop_len": 4},
    "lrelu_slope": 0.1,
    "audio_limit": 0.99,
    "conv_pre_look_right": 4,
}

Module = TypeVar("Module", bound=nn.Module)


class Layout(Enum):
    """The two published folders. Source: minicpmo-utils <= 1.0.6, and 1.0.7."""

    HIFT = "five files"
    CAUSAL = "causal vocoder"


@frozen
class Token2WavAssets:
    """Everything in the folder; the modules are in eval mode on the device."""

    layout: Layout
    flow: Flow
    vocoder: Hift | CausalHift
    speech_tokenizer: Path
    speaker_encoder: Path


def find_layout(folder: Path) -> Layout:
    """Return the layout of *folder*.

    Raises: CheckpointError, with the names, if files of either layout are missing.
    """
    found = [name for name in CAUSAL_FILES if (folder / name).is_file()]
    wanted = COMMON_FILES + (CAUSAL_FILES if found else ())
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        _refuse(folder, f"missing {', '.join(missing)}")
    return Layout.CAUSAL if found else Layout.HIFT


def load_assets(
    folder: Path,
    device: torch.device,
    *,
    flow_dtype: torch.dtype = torch.float32,
    stage: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Token2WavAssets:
    """Return the models of *folder* on *device*, the flow in *flow_dtype*, the vocoder in float32.

    stage: entered around each of them, with its name. Raises: CheckpointError.
    """
    layout = find_layout(folder)
    with stage("flow"):
        flow = load_flow(folder, device, flow_dtype)
    with stage("HiFT"):
        vocoder = load_vocoder(folder, layout, device)
    return Token2WavAssets(
        layout=layout,
        flow=flow,
        vocoder=vocoder,
        speech_tokenizer=folder / "speech_tokenizer_v2_25hz.onnx",
        speaker_encoder=folder / "campplus.onnx",
    )


def load_flow(folder: Path, device: torch.device, dtype: torch.dtype) -> Flow:
    """Return the flow of *folder* on *device* in *dtype*."""
    path = folder / "flow.pt"
    flow = _fill(Flow, flow_config(folder / "flow.yaml"), read_tensors(path), path, device, dtype)
    return flow.to(device=device, dtype=dtype)


def load_vocoder(
    folder: Path, layout: Layout, device: torch.device = torch.device("cpu")
) -> Hift | CausalHift:
    """Return the streaming vocoder of *folder* on *device*: hift.pt in either layout."""
    path = folder / "hift.pt"
    tensors = {name.removeprefix("generator."): value for name, value in read_tensors(path).items()}
    config, folded = hift_config(tensors, path), fold_vocoder(tensors)
    if layout is Layout.HIFT:
        return _fill(Hift, config, folded, path, device).to(device)
    check_causal_config(folder / "config.yaml")
    return _fill(CausalHift, config, folded, path, device).to(device)


def flow_config(path: Path) -> FlowConfig:
    """Return the sizes in flow.yaml. Raises: CheckpointError for what this engine does not know."""
    values = _section(read_yaml(path), "flow", path)
    encoder, decoder = _section(values, "encoder", path), _section(values, "decoder", path)
    estimator = _section(decoder, "estimator", path)
    _require(encoder, FLOW_VALUES, path)
    mel_bins, hidden = _number(values, "output_size", path), _number(encoder, "output_size", path)
    _require(values, {"input_size": hidden}, path)
    _require(estimator, {"in_channels": 4 * mel_bins, "out_channels": mel_bins}, path)
    width = _number(estimator, "hidden_size", path)
    return FlowConfig(
        num_codes=_number(values, "vocab_size", path),
        mel_bins=mel_bins,
        speaker_dim=_number(values, "spk_embed_dim", path),
        guidance=float(decoder.get("inference_cfg_rate", 0.7)),
        encoder=EncoderConfig(
            hidden=hidden,
            heads=_number(encoder, "attention_heads", path),
            ffn=_number(encoder, "linear_units", path),
            token_layers=_number(encoder, "num_blocks", path),
            mel_layers=_number(encoder, "num_up_blocks", path),
        ),
        dit=DiTConfig(
            hidden=width,
            depth=_number(estimator, "depth", path),
            heads=_number(estimator, "num_heads", path),
            head_dim=_number(estimator, "head_dim", path),
            mlp_hidden=int(width * float(estimator.get("mlp_ratio", 4.0))),
            mel_bins=mel_bins,
        ),
    )


def hift_config(tensors: Mapping[str, Tensor], path: Path) -> HiftConfig:
    """Return a vocoder's sizes, read off its biases and input layer."""
    pre, f0 = tensors.get("conv_pre.bias"), tensors.get("f0_predictor.condnet.0.bias")
    weight = tensors.get(
        "conv_pre.parametrizations.weight.original1", tensors.get("conv_pre.weight_v")
    )
    if pre is None or f0 is None or weight is None:
        _refuse(path, "no HiFT vocoder in it (conv_pre and f0_predictor are wanted)")
    return HiftConfig(mel_bins=weight.shape[1], base_channels=pre.shape[0], f0_channels=f0.shape[0])


def check_causal_config(path: Path) -> None:
    """Raise CheckpointError unless config.yaml describes the vocoder that we know."""
    _require(_section(read_yaml(path), "hift", path), HIFT_VALUES, path)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return *path* as plain data; tags such as `!new:` are read over, nothing is instantiated."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_DataLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise CheckpointError(
            f"{path} is not readable YAML ({exc}). Fetch the model again."
        ) from exc
    if not isinstance(values, Mapping):
        _refuse(path, "not a YAML map")
    return values


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the state dict in the .pt file *path*; nothing but tensors is unpickled."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as exc:
        raise CheckpointError(
            f"{path} is broken or no weights file ({exc}). Fetch it again."
        ) from exc
    if not isinstance(tensors, Mapping) or not all(isinstance(v, Tensor) for v in tensors.values()):
        _refuse(path, "not a map of tensors")
    return dict(tensors)


def fold_vocoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return *tensors* under our names, each weight-norm pair (g, v) replaced by g v / |v|.

    The sums run in float64, and the f0 predictor stays there: the causal one needs it, the other is
    cast on loading.
    """
    folded: dict[str, Tensor] = {}
    for name, value in tensors.items():
        name = name.replace(".weight_g", ".parametrizations.weight.original0")
        name = name.replace(".weight_v", ".parametrizations.weight.original1")
        stem, _, part = name.partition(".parametrizations.weight.")
        if part == "original0":
            continue
        if part == "original1":
            gain = tensors.get(
                f"{stem}.parametrizations.weight.original0", tensors.get(f"{stem}.weight_g")
            )
            if gain is None:
                continue  # reported as a missing weight
            direction = value.double()
            norm = direction.square().sum((1, 2), keepdim=True).sqrt()
            name, value = f"{stem}.weight", gain.double() * direction / norm
        inner = name.startswith(("f0_predictor.", "m_source."))
        folded[name if inner else f"decoder.{name}"] = value
    return folded


def _fill(
    kind: type[Module],
    config: Any,  # each kind takes its own
    tensors: Mapping[str, Tensor],
    path: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Module:
    """Return a *kind* of *config*, its weights on *device*, in *dtype* or that of the module.

    What is no weight stays on the CPU.
    """
    with _NothingDrawn():
        module = kind(config)
    own = module.state_dict()
    wanted = {name: value.shape for name, value in own.items()}
    problems = [
        _listed("missing", [name for name in wanted if name not in tensors]),
        _listed("unknown", [name for name in tensors if name not in wanted]),
        _listed(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
                for name, shape in wanted.items()
                if name in tensors and tensors[name].shape != shape
            ],
        ),
    ]
    if any(problems):
        _refuse(path, "; ".join(filter(None, problems)))
    # From the mapped file straight to where it stays: filling the module's own memory first takes
    # longer than everything else. A copy in any case, as the file may change.
    placed = {
        name: tensors[name].to(device, dtype or value.dtype, copy=True)
        for name, value in own.items()
    }
    module.load_state_dict(placed, assign=True)
    return module.requires_grad_(False).eval()


class _NothingDrawn(TorchFunctionMode):
    """Leaves parameters as they are where a module would draw their first values.

    Every one is filled right afterwards, and drawing takes a second. (On the meta device nothing
    is drawn either, but there torch imports its whole compiler, which takes longer.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None  # as torch says
    ) -> Any:
        given = kwargs or {}
        target = args[0] if args else given.get("tensor")
        if getattr(func, "__name__", "") in _DRAWS and isinstance(target, Parameter):
            return target
        return func(*args, **given)


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"{what}: {', '.join(names[:MAX_NAMES_SHOWN])}{rest}"


def _section(values: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    section = values.get(name)
    if not isinstance(section, Mapping):
        _refuse(path, f"no section {name!r}")
    return section


def _number(values: Mapping[str, Any], name: str, path: Path) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value <= 0:
        _refuse(path, f"{name} is {value!r}, wanted a positive integer")
    return value


def _require(values: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    for name, value in wanted.items():
        if values.get(name) != value:
            _refuse(path, f"{name} is {values.get(name)!r}, this engine knows {value!r} only")


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(
        f"{path}: {problem}. Fetch the model again (omni model fetch), or set model.model_path to "
        "a folder whose assets/token2wav is complete."
    )


class _DataLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no stubs
    """YAML without objects: a tagged node is the map, list or scalar that it wraps."""


def _plain(loader: Any, _suffix: str, node: Any) -> Any:  # PyYAML has no stubs
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_DataLoader.add_multi_constructor("!", _plain)
