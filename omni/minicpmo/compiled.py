"""What is compiled, and where that is kept, so that the next start finds it.

The kernels of the language and speech models are built by Triton at their first run; steps are
recorded as CUDA graphs at each start. With `service.compile`, torch.compile fuses what lies between
the matrix products of the picture encoder and of the vocoder, whose layers are plain torch.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from omni.minicpmo.model.dit import DiTBlock
from omni.minicpmo.model.flow_encoder import ConformerLayer
from omni.minicpmo.model.hift_decoder import ResBlock
from omni.minicpmo.model.vision import VisionLayer

#: Layers that are compiled; each kind once, all layers of it share the result.
BLOCKS = (VisionLayer, DiTBlock, ConformerLayer, ResBlock)
#: Kinds of ResBlock alone are nine (three widths, three kernels), each with and without a mask.
_RECOMPILE_LIMIT = 64
_FOLDERS = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}


def cache_folder(data_dir: Path) -> Path:
    """Return where compiled kernels are kept."""
    return data_dir.absolute() / "compiled"


def keep_compiled(data_dir: Path) -> None:
    """Have Triton and torch keep what they build below *data_dir*, unless the environment says."""
    for variable, name in _FOLDERS.items():
        os.environ.setdefault(variable, str(cache_folder(data_dir) / name))


def compile_blocks(modules: Iterable[nn.Module]) -> int:
    """Have the layers of *modules* compiled at their first run; return how many they are."""
    torch.compiler.set_stance("default")
    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    blocks = [
        block for module in modules for block in module.modules() if isinstance(block, BLOCKS)
    ]
    for block in blocks:
        block.compile()
    return len(blocks)


def compile_no_more() -> None:
    """Compute shapes that were not compiled by now as they are, process-wide.

    Compiling takes seconds, in which every session of the engine would wait and the worker's
    heartbeats would be missed.
    """
    torch.compiler.set_stance("eager_on_recompile")
