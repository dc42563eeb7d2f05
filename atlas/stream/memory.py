"""Host memory for batches, used again and again: new memory costs as much time as reading a patch into it."""

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HostMemory:
    """Lends tensors; what nobody holds any more is lent again. Threads may share it.

    Parameters
    ----------
    pinned
        Page-locked, so that copies to a GPU run beside everything else.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def lend(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        """Tensor with whatever was in the memory before; it goes back when the last view of it is gone."""
        count = math.prod(shape) * dtype.itemsize
        with self._lock:
            free = self._free.setdefault(count, [])
            block = free.pop() if free else None
        if block is None:
            block = (
                torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy()
                if self.pinned
                else np.empty(count, np.uint8)
            )
        view = block.view(dtype).reshape(shape)  # the storage of the tensor, and so every view of it, keeps this object
        weakref.finalize(view, free.append, block).atexit = False
        return torch.from_numpy(view)
