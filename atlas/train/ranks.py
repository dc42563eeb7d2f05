"""The processes that train together: which one this is, on which device, and what they agree on."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from atlas.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = timedelta(hours=12)
"""How long ranks wait for each other: the others wait while the first one validates."""


@dataclass(frozen=True)
class Ranks:
    """Place of this process among those that train together.

    Attributes
    ----------
    rank, size
        Number of this process, and how many there are.
    device
        What it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network whose backward pass averages gradients over the ranks."""
        if self.size == 1:
            return network
        # without device_ids, so that inputs stay where they are: availability is wanted on the host
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the ranks."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def gathered(self, value: list[Any]) -> list[Any]:
        """Lists of all ranks in one."""
        if self.size == 1:
            return value
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, value)
        return [entry for part in parts for entry in part]

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it did not.

    Parameters
    ----------
    device
        "auto" is a GPU where there is one. Under torchrun "cuda" is the GPU of the number that LOCAL_RANK says.

    Raises
    ------
    TrainingError
        If there is no such device.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), chosen)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), chosen)
        finally:
            dist.destroy_process_group()
    else:
        yield Ranks(0, 1, chosen)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"device {name!r}: none is called that; auto, cpu, cuda or cuda:1 are") from error
    if device.type == "cuda":
        return _gpu(device)
    return device


def _gpu(device: torch.device) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    index = local if device.index is None else device.index  # type: ignore[redundant-expr]
    if index >= torch.cuda.device_count():
        raise TrainingError(
            f"device cuda:{index}: there are {torch.cuda.device_count()} GPUs that torch can use; "
            "start as many processes as there are GPUs, or use --device cpu"
        )
    return torch.device("cuda", index)
