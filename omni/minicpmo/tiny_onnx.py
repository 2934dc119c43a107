"""Two small ONNX models with the interfaces of the speech tokenizer and of the speaker embedder.

They stand where the large published files stand, so that onnxruntime really runs. Their
weights are fixed; the answers depend on the sound and on nothing else.
"""

from collections.abc import Sequence
from typing import Any  # onnx's messages come without types

import numpy as np
from numpy.typing import NDArray

from omni.errors import ClientError
from omni.minicpmo.random_weights import CpuDraw, Spread

_OPSET = 17
_IR_VERSION = 8
_CHANNELS = 16
_DIGITS = 8  # of three levels each: 6,561 codes

#: Name, element type, shape with names for what varies.
_Value = tuple[str, int, tuple[int | str, ...]]


def speech_tokenizer() -> bytes:
    """Mel (1, 128, T) and its length (1,) -> codes (1, ceil(T / 4)) int32 in 0..6560.

    Two strided convolutions, then eight digits of three levels, least significant first.
    """
    onnx = _onnx()
    node, kind = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        node("Conv", ["feats", "filter1"], ["a"], strides=[2], pads=[1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "filter2"], ["c"], strides=[2], pads=[1, 1]),
        node("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        node("MatMul", ["d", "to_digits"], ["e"]),
        node("Tanh", ["e"], ["f"]),
        node("Round", ["f"], ["g"]),
        node("Add", ["g", "one"], ["digits"]),
        node("MatMul", ["digits", "places"], ["h"]),
        node("Squeeze", ["h", "axis2"], ["i"]),
        node("Add", ["feats_length", "three"], ["j"]),
        node("Div", ["j", "four"], ["length"]),
        node("Slice", ["i", "zero", "length", "axis1"], ["k"]),
        node("Cast", ["k"], ["indices"], to=kind.INT32),
    ]
    constants: dict[str, NDArray[Any]] = {
        "filter1": _filter("filter1", (_CHANNELS, 128, 3)),
        "filter2": _filter("filter2", (_CHANNELS, _CHANNELS, 3)),
        "to_digits": _filter("to_digits", (_DIGITS, _CHANNELS)).T * np.float32(3),
        "one": np.ones(1, np.float32),
        "places": (3.0 ** np.arange(_DIGITS)).astype(np.float32)[:, None],
        "axis2": np.array([2], np.int64),
        "three": np.array([3], np.int32),
        "four": np.array([4], np.int32),
        "zero": np.array([0], np.int32),
        "axis1": np.array([1], np.int32),
    }
    inputs: list[_Value] = [
        ("feats", kind.FLOAT, (1, 128, "T")),
        ("feats_length", kind.INT32, (1,)),
    ]
    return _model(nodes, inputs, ("indices", kind.INT32, (1, "codes")), constants)


def speaker_embedder() -> bytes:
    """Filter bank (1, T, 80) -> speaker (1, 192): a mean over time of a nonlinear map."""
    onnx = _onnx()
    node, kind = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        node("MatMul", ["input", "into"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("ReduceMean", ["b"], ["c"], axes=[1], keepdims=0),
        node("MatMul", ["c", "out"], ["output"]),
    ]
    constants = {
        "into": _filter("into", (64, 80)).T * np.float32(0.3),
        "out": _filter("out", (192, 64)).T * np.float32(10),
    }
    inputs: list[_Value] = [("input", kind.FLOAT, (1, "T", 80))]
    return _model(nodes, inputs, ("output", kind.FLOAT, (1, 192)), constants)


def _onnx() -> Any:
    # Late: only the writer of a tiny checkpoint needs the package, no server does.
    try:
        import onnx
    except ImportError as exc:
        raise ClientError("onnx is not installed; run: pip install onnx==1.23.2") from exc
    return onnx


def _filter(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    spread = Spread(0.0, float(1.0 / np.sqrt(np.prod(shape[1:]))))
    weights: NDArray[np.float32] = CpuDraw(0)(f"onnx.{name}", shape, spread).numpy()
    return weights


def _model(
    nodes: list[Any],
    inputs: Sequence[_Value],
    output: _Value,
    constants: dict[str, NDArray[Any]],
) -> bytes:
    onnx = _onnx()
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info(*row) for row in inputs],
        [onnx.helper.make_tensor_value_info(*output)],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in constants.items()
        ],
    )
    opset = onnx.helper.make_opsetid("", _OPSET)
    model = onnx.helper.make_model(
        graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="omni"
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
