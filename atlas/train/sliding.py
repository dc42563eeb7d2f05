"""Probabilities of a whole volume, from windows that overlap.

Windows come layer by layer from the first slice to the last. What they add up to is kept only for the slices that the
current layer covers: as soon as no later window touches a slice, it is divided by its weight, rounded and put into the
result. Beside the result (one byte a class and voxel, a file on disk if wanted) it takes

    4 bytes x (classes + 1) x pz x max(Y, py) x max(X, px)

for windows of (pz, py, px) voxels, whatever the height of the scan: 1.4 GB for 32 classes, windows of 96^3 and slices
of 341 x 341, plus what the network needs for one batch of windows.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from atlas.errors import CheckpointError, SpecError
from atlas.harmonize.grid import HU_MIN
from atlas.stream.unpack import window as windowed
from atlas.stream.windows import window_origins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from atlas.model.network import UniversalNetwork

    Precision = Literal["fp32", "bf16", "fp16"]
    Progress = Callable[[int, int], None]

SIGMA = 0.125
"""Of the Gaussian weight, in window sizes; as MONAI's sliding-window inference and nnU-Net have it."""

LEAST_WEIGHT = 1e-3
"""The corners of a window count that much at least; MONAI's number."""

DEVICE_SHARE = 0.5
"""Part of the device's free memory that sums may take; the network needs the rest."""

HALF = 128
"""Coded probabilities from here on are above 0.5."""

AXES = 3


class Windows(NamedTuple):
    """How a volume is cut.

    Attributes
    ----------
    patch
        Voxels of a window, (z, y, x).
    overlap
        Fraction of a window that the next one repeats, in [0, 1).
    batch
        Windows of one forward pass, at most.
    """

    patch: tuple[int, int, int]
    overlap: float = 0.5
    batch: int = 1


def predict_volume(
    network: UniversalNetwork,
    ct: NDArray[np.int16],
    *,
    patch: Sequence[int],
    rows: Sequence[int] | None = None,
    window: Sequence[float] = (-175.0, 250.0),
    overlap: float = 0.5,
    batch: int = 1,
    precision: Precision = "fp32",
    out: NDArray[np.uint8] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Probability of every class at every voxel: the Gaussian-weighted mean over all windows that hold the voxel.

    Parameters
    ----------
    network
        On its device; it runs in evaluation mode and is left as it was.
    ct
        int16 (z, y, x), HU, on the grid that the network was trained on. Anything that gives such arrays when its
        first axis is sliced will do (a memory map, a Zarr array): it is read layer by layer.
    patch
        Voxels of a window, (z, y, x). Where the volume is shorter it lies in the middle of the window, amid air.
    rows
        Channels that are wanted, in the order wanted; nothing is computed for the others. None: all.
    window
        HU that become 0 and 1.
    overlap
        Fraction of a window that the next one repeats, in [0, 1).
    batch
        Windows of one forward pass.
    precision
        Of the network's arithmetic; sums are float32 always.
    out
        uint8 (rows, z, y, x) to write to, such as a memory map.
    progress
        Told (windows done, windows in all).

    Returns
    -------
    ndarray
        `out`, or a new array: probability x 255, rounded half down, so that 128 and more means above 0.5.

    Raises
    ------
    SpecError
        If the rows, the windows or `out` do not fit the network or the volume.
    CheckpointError
        If the network answers with NaN.
    """
    wanted = list(range(len(network.classes))) if rows is None else list(rows)
    windows = _checked(patch, overlap, batch)
    _check_rows(wanted, len(network.classes))
    if out is None:
        out = np.empty((len(wanted), *ct.shape), np.uint8)
    _check_out(out, (len(wanted), *ct.shape))
    ascending = sorted(wanted)
    places = [ascending.index(row) for row in wanted]
    with torch.inference_mode(), _evaluating(network):
        for z, probabilities in finished_slices(
            network, ct, ascending, windows, window=window, precision=precision, progress=progress
        ):
            if torch.isnan(probabilities.sum()):  # no byte says so
                raise CheckpointError(
                    f"the network answers NaN about slices {z} to {z + probabilities.shape[1] - 1}: its weights are "
                    f"damaged, or {precision} is too narrow for them"
                )
            coded = probabilities.mul_(255).sub_(0.5).ceil_()
            for channel, place in enumerate(places):  # one by one: no second copy of all classes
                out[channel, z : z + coded.shape[1]] = coded[place].to(torch.uint8).cpu().numpy()
    return out


def finished_slices(
    network: UniversalNetwork,
    ct: NDArray[np.int16],
    rows: Sequence[int],
    windows: Windows,
    *,
    window: Sequence[float] = (-175.0, 250.0),
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Probabilities of the rows (ascending), from the first slice to the last.

    Yields
    ------
    tuple
        First slice, and float32 (rows, n, y, x) of it and the following ones. The tensor may be changed, and is
        valid until the next one is asked for.
    """
    device = next(network.parameters()).device
    origins = window_origins(ct.shape, windows.patch, windows.overlap)
    shape = slab_shape(len(rows), ct.shape, windows.patch)
    sums = torch.zeros(shape, device=_place(device, 4 * math.prod(shape)))
    importance = gaussian(windows.patch).to(sums.device)
    forward = _Forward(network, rows, window, precision)
    starts = np.unique(origins[:, 0]).tolist()
    across = origins[origins[:, 0] == starts[0], 1:]
    lead = np.maximum(0, -across.min(0))  # voxels of air before the volume
    inside = tuple(slice(a, a + n) for a, n in zip(lead.tolist(), ct.shape[1:], strict=True))
    for layer, (start, following) in enumerate(zip(starts, [*starts[1:], ct.shape[0]], strict=True)):
        block = _block(ct, start, lead.tolist(), shape[1:])
        for first in range(0, len(across), windows.batch):
            corners = (across[first : first + windows.batch] + lead).tolist()
            _add(sums, forward(_cut(block, corners, windows.patch)), corners, importance)
            if progress is not None:
                progress(layer * len(across) + first + len(corners), len(origins))
        low = max(start, 0)
        done = sums[:, low - start : following - start, inside[0], inside[1]]
        yield low, done[:-1].div_(done[-1])
        _shift(sums, following - start)


def slab_shape(classes: int, shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int, int]:
    """Numbers that are kept while predicting a volume: sums of each class and the weight, (classes + 1, z, y, x)."""
    return classes + 1, patch[0], max(shape[1], patch[1]), max(shape[2], patch[2])


def gaussian(patch: Sequence[int]) -> torch.Tensor:
    """Weight of the voxels of a window, float32 (z, y, x): a Gaussian about its middle, `LEAST_WEIGHT` at least."""
    weight = torch.ones(())
    for size in patch:
        offset = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        weight = weight.unsqueeze(-1) * torch.exp(-0.5 * (offset / (SIGMA * size)) ** 2)
    return weight.clamp_(min=LEAST_WEIGHT)


class _Forward:
    """Windows of CT -> probabilities (windows, rows, z, y, x)."""

    def __init__(
        self, network: UniversalNetwork, rows: Sequence[int], window: Sequence[float], precision: Precision
    ) -> None:
        self.network, self.window = network, window
        self.device = next(network.parameters()).device
        self.wanted = torch.zeros(len(network.classes), dtype=torch.bool)
        self.wanted[list(rows)] = True
        self.rows = len(rows)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def __call__(self, ct: torch.Tensor) -> torch.Tensor:
        image = windowed(ct.to(self.device), self.window[0], self.window[1])[:, None]
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if lower else None, enabled=lower):
            logits: torch.Tensor = self.network(image, self.wanted.expand(len(image), -1)).logits
        return logits.float().sigmoid_().view(len(image), self.rows, *image.shape[2:])


def _block(ct: NDArray[np.int16], start: int, lead: Sequence[int], shape: Sequence[int]) -> NDArray[np.int16]:
    """The slices of a layer of windows, with air where there is no volume."""
    low, high = max(start, 0), min(start + shape[0], ct.shape[0])
    block = np.full(shape, HU_MIN, np.int16)
    y, x = (slice(a, a + n) for a, n in zip(lead, ct.shape[1:], strict=True))
    block[low - start : high - start, y, x] = ct[low:high]
    return block


def _cut(block: NDArray[np.int16], corners: Sequence[Sequence[int]], patch: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.stack([block[:, y : y + patch[1], x : x + patch[2]] for y, x in corners]))


def _add(
    sums: torch.Tensor, probabilities: torch.Tensor, corners: Sequence[Sequence[int]], importance: torch.Tensor
) -> None:
    _, height, width = importance.shape
    for probability, (y, x) in zip(probabilities, corners, strict=True):
        part = sums[:, :, y : y + height, x : x + width]
        part[:-1].addcmul_(probability.to(sums.device), importance)
        part[-1].add_(importance)


def _shift(sums: torch.Tensor, step: int) -> None:
    """Move by `step` slices, zeros behind; in pieces that do not overlap what they come from."""
    kept = max(sums.shape[1] - step, 0)
    for first in range(0, kept, step):
        last = min(first + step, kept)
        sums[:, first:last].copy_(sums[:, first + step : last + step])
    sums[:, kept:] = 0


def _place(device: torch.device, nbytes: int) -> torch.device:
    """Where sums are kept: with the network if they fit, else on the host."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return device if nbytes <= DEVICE_SHARE * free else torch.device("cpu")


@contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _checked(patch: Sequence[int], overlap: float, batch: int) -> Windows:
    if len(patch) != AXES or min(patch) < 1:
        raise SpecError(f"a window has three sides of at least one voxel, not {tuple(patch)}")
    if not 0 <= overlap < 1 or batch < 1:
        raise SpecError(f"overlap {overlap} and batch {batch}: from 0 to below 1, and at least 1")
    z, y, x = patch
    return Windows((z, y, x), overlap, batch)


def _check_rows(rows: Sequence[int], classes: int) -> None:
    if not rows or len(set(rows)) != len(rows) or min(rows) < 0 or max(rows) >= classes:
        raise SpecError(f"rows are different numbers from 0 to {classes - 1}, at least one, not {list(rows)}")


def _check_out(out: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if out.shape != shape or out.dtype != np.uint8:
        raise SpecError(f"`out` is uint8 {shape} here, not {out.dtype} {out.shape}")
