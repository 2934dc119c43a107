"""Inputs of a step of fixed shape: arrays that are filled on the host and sent in one copy.

A recorded step reads the same memory at each replay. Between a token that the host has seen and the
next step stands only what is done here, so it allocates nothing and copies once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

_WORD_BYTES = 8
_DTYPES: Mapping[torch.dtype, type[np.generic]] = {
    torch.int64: np.int64,
    torch.float32: np.float32,
}
#: A copy may still be under way when the next step is prepared.
_NUM_HOST_COPIES = 2

Array = NDArray[Any]  # int64 or float32, as its field says


@frozen
class Field:
    """One array."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.int64

    @property
    def num_words(self) -> int:
        """Words of eight bytes that it takes."""
        return -(-int(np.prod(self.shape)) * self.dtype.itemsize // _WORD_BYTES)


class Staging:
    """Named arrays on the host, and where they lie on the device.

    tensors: the arrays on the device, as the last `send` left them. `host` gives the arrays to fill
    (zeros at first, later whatever was there); on a CPU both are the same memory.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        size = sum(field.num_words for field in fields.values())
        self._buffer = torch.zeros(size, dtype=torch.int64, device=device)
        self.tensors = {
            name: part.view(field.dtype)[: int(np.prod(field.shape))].view(field.shape)
            for (name, field), part in zip(
                fields.items(), _split(self._buffer, fields), strict=True
            )
        }
        self._is_shared = device.type == "cpu"
        hosts = [
            self._buffer if self._is_shared else torch.zeros(size, dtype=torch.int64).pin_memory()
            for _ in range(_NUM_HOST_COPIES)
        ]
        self._hosts = hosts
        self._arrays = [_arrays(host, fields) for host in hosts]
        self._copied: list[torch.cuda.Event | None] = [None] * _NUM_HOST_COPIES
        self._turn = 0

    def host(self) -> dict[str, Array]:
        """Return the arrays to fill for the next `send`; all of them."""
        if (event := self._copied[self._turn]) is not None:
            event.synchronize()  # over long since, unless steps were launched without any wait
        return self._arrays[self._turn]

    def send(self) -> None:
        """Copy what `host` gave to the device, behind what its stream has to do."""
        if self._is_shared:
            return
        self._buffer.copy_(self._hosts[self._turn], non_blocking=True)
        event = self._copied[self._turn] or torch.cuda.Event()
        event.record()
        self._copied[self._turn] = event
        self._turn = (self._turn + 1) % _NUM_HOST_COPIES


def _split(buffer: Tensor, fields: Mapping[str, Field]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = buffer.split([field.num_words for field in fields.values()])
    return parts


def _arrays(host: Tensor, fields: Mapping[str, Field]) -> dict[str, Array]:
    arrays = {}
    for (name, field), part in zip(fields.items(), _split(host, fields), strict=True):
        flat = part.numpy().view(_DTYPES[field.dtype])
        arrays[name] = flat[: int(np.prod(field.shape))].reshape(field.shape)
    return arrays
