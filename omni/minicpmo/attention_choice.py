"""`model.attn_implementation`: which attention the language and speech models compute with.

flash_attention_2: this engine's own tiled kernels over the pages where they lie (Triton). sdpa:
the pages are gathered, and torch's scaled dot product attention chooses its fastest way. eager: the
same with its plain way alone (matrix product, softmax, matrix product). auto: the kernels where
they can be, else sdpa. The encoders use scaled dot product attention always.
"""

import logging
from typing import Literal

import torch

from omni.errors import SettingsError
from omni.minicpmo.kernel_needs import lacks_for_kernels

log = logging.getLogger(__name__)

Wanted = Literal["auto", "flash_attention_2", "sdpa", "eager"]

#: Tensor cores for bfloat16 came with it. Source: NVIDIA, compute capability 8.0 (Ampere).
_LEAST_CAPABILITY = (8, 0)


def choose_attention(wanted: Wanted, device: torch.device) -> bool:
    """Prepare torch for *wanted*, process-wide; return whether to use the kernels.

    Raises: SettingsError for flash_attention_2 where its kernels cannot run.
    """
    # eager: of torch's ways only the one that computes step by step is left.
    torch.backends.cuda.enable_flash_sdp(wanted != "eager")
    torch.backends.cuda.enable_mem_efficient_sdp(wanted != "eager")
    if wanted in ("sdpa", "eager"):
        return False
    lacks = why_no_kernels(device)
    if not lacks:
        return True
    if wanted == "flash_attention_2":
        raise SettingsError(
            f"model.attn_implementation = 'flash_attention_2' cannot be: {lacks}; or set it to "
            "'auto' or 'sdpa'"
        )
    if device.type == "cuda":
        log.warning("attention and small steps run in plain torch, several times slower: %s", lacks)
    return False


def why_no_kernels(device: torch.device) -> str:
    """Return what keeps the kernels from running on *device*; empty where nothing does."""
    if device.type != "cuda":
        return "the kernels need an NVIDIA GPU, and this process sees none"
    if (found := torch.cuda.get_device_capability(device)) < _LEAST_CAPABILITY:
        shown, least = (".".join(map(str, each)) for each in (found, _LEAST_CAPABILITY))
        return f"the GPU has compute capability {shown}, and the kernels need {least}"
    return lacks_for_kernels()
