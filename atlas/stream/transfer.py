"""Batches to a GPU, beside what the GPU is doing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from atlas.stream.batch import Batch, PackedBatch


class _Sent(NamedTuple):
    batch: Batch
    source: PackedBatch
    arrived: torch.cuda.Event


class Transfer:
    """Copies and unpacks on a CUDA stream of its own.

    Parameters
    ----------
    device
        A GPU.
    unpack
        Packed batch to batch, on that device.
    """

    def __init__(self, device: torch.device, unpack: Callable[[PackedBatch], Batch]) -> None:
        self._device, self._unpack = device, unpack
        self._stream: torch.cuda.Stream | None = None
        self._sent: deque[_Sent] = deque()
        self._taken: deque[tuple[PackedBatch, torch.cuda.Event]] = deque()

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, packed: PackedBatch) -> None:
        """Start to copy and unpack a batch."""
        self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            batch = self._unpack(packed)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        self._sent.append(_Sent(batch, packed, arrived))

    def take(self) -> Batch:
        """Give the batch that was sent first; what the GPU does from now on waits for it, this process does not."""
        batch, source, arrived = self._sent.popleft()
        self._taken.append((source, arrived))  # its memory may be lent again only once it was copied
        while self._taken and self._taken[0][1].query():  # type: ignore[no-untyped-call]
            self._taken.popleft()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(arrived)
        for tensor in (batch.image, batch.mask, batch.available, batch.unknown):
            if tensor is not None:
                tensor.record_stream(current)
        return batch

    def forget(self) -> None:
        """Drop what was sent and not taken."""
        self._sent.clear()
