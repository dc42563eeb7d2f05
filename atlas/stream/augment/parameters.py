"""What is to be done to each patch: plain numbers, comparable, and kept as JSON without loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONTROL = 7
"""Control points of an elastic field along each axis (TorchIO's `RandomElasticDeformation` has as many)."""


class Column(NamedTuple):
    """What an array of `Parameters` holds: type, shape of a row, bounds, and the value that does nothing."""

    dtype: type[np.generic]
    row: tuple[int, ...]
    low: float
    high: float
    neutral: float


COLUMNS = {
    "index": Column(np.int64, (), 0, 2**63 - 1, 0),
    "rotation": Column(np.float64, (3,), -180, 180, 0),
    "scale": Column(np.float64, (3,), 0.25, 4, 1),
    "elastic": Column(np.float32, (3, CONTROL, CONTROL, CONTROL), -64, 64, 0),
    "quarter_turns": Column(np.int64, (), 0, 3, 0),
    "mirror": Column(np.bool_, (), 0, 1, 0),
    "noise": Column(np.float64, (), 0, 1, 0),
    "noise_key": Column(np.uint32, (2,), 0, 2**32 - 1, 0),
    "blur": Column(np.float64, (3,), 0, 8, 0),
    "brightness": Column(np.float64, (), 0, 4, 1),
    "contrast": Column(np.float64, (), 0, 4, 1),
    "shift": Column(np.float64, (), -1, 1, 0),
    "low_resolution": Column(np.float64, (), 0.1, 1, 1),
    "inverted_gamma": Column(np.float64, (), 0.1, 10, 1),
    "gamma": Column(np.float64, (), 0.1, 10, 1),
}


@dataclass(frozen=True, eq=False)
class Parameters:
    """Augmentation of B patches, one row a patch. Three values a row are in the order (z, y, x).

    Attributes
    ----------
    index
        int64 (B,): number of the patch in its run.
    rotation
        float64 (B, 3): degrees about the z, y and x axis, the x axis first; a positive angle about z turns x
        towards y, about y it turns z towards x, about x it turns y towards z. 0: none.
    scale
        float64 (B, 3): magnification, along the patch's axes, after the rotation; above 1 things grow. 1: none.
    elastic
        float32 (B, 3, 7, 7, 7): displacement in voxels along (z, y, x) at the control points of a uniform cubic
        B-spline that covers the patch. 0: none.
    quarter_turns
        int64 (B,): turns by 90 degrees about z, of x towards y. 0: none.
    mirror
        bool (B,): left and right are swapped. The look-up that unpacks the codes must then read each class from
        its mirror class.
    noise
        float64 (B,): standard deviation of Gaussian noise, in units of the window's width. 0: none.
    noise_key
        uint32 (B, 2): key of the noise.
    blur
        float64 (B, 3): standard deviation of the Gaussian in voxels. 0: none.
    brightness, contrast
        float64 (B,): factor about 0, and about the patch's mean. 1: none.
    shift
        float64 (B,): what is added, in units of the window's width. 0: none.
    low_resolution
        float64 (B,): resolution that is left, of 1. 1: all.
    inverted_gamma, gamma
        float64 (B,): exponent, on the image turned upside down, and as it is. 1: none.

    Raises
    ------
    SpecError
        If an array is of another type or shape, or a value lies out of bounds.
    """

    index: NDArray[np.int64]
    rotation: Floats
    scale: Floats
    elastic: NDArray[np.float32]
    quarter_turns: NDArray[np.int64]
    mirror: NDArray[np.bool_]
    noise: Floats
    noise_key: NDArray[np.uint32]
    blur: Floats
    brightness: Floats
    contrast: Floats
    shift: Floats
    low_resolution: Floats
    inverted_gamma: Floats
    gamma: Floats

    def __post_init__(self) -> None:
        for name, column in COLUMNS.items():
            _check(name, getattr(self, name), column, len(self.index))

    @classmethod
    def neutral(cls, index: Sequence[int] | NDArray[Any]) -> Parameters:
        """Parameters that leave the patches of these numbers as they are; start of what a test or a replay makes."""
        numbers = np.asarray(index, np.int64)
        arrays = {n: np.full((len(numbers), *c.row), c.neutral, c.dtype) for n, c in COLUMNS.items()}
        return cls(**{**arrays, "index": numbers})

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Parameters:
        """Parameters of one patch of the batch, as a batch of one."""
        return self.take([row])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameters):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Parameters:
        """Parameters of some rows, in the order given."""
        return Parameters(**{name: getattr(self, name)[np.asarray(rows, np.int64)] for name in COLUMNS})

    @property
    def resampled(self) -> NDArray[np.bool_]:
        """Patches that are interpolated, not only turned or mirrored: bool (B,)."""
        return self.acts("rotation", "scale", "elastic")

    def acts(self, *names: str) -> NDArray[np.bool_]:
        """Rows in which any of these arrays holds anything but the value that does nothing: bool (B,)."""
        acting = np.zeros(len(self), np.bool_)
        for name in names:
            different = getattr(self, name) != COLUMNS[name].neutral
            acting |= different.any(axis=tuple(range(1, different.ndim)))
        return acting

    def as_dict(self) -> dict[str, Any]:
        """Lists and numbers that JSON keeps without loss; an elastic field that is zero is None."""
        content = {name: getattr(self, name).tolist() for name in COLUMNS}
        bent = self.acts("elastic").tolist()
        content["elastic"] = [row if b else None for row, b in zip(content["elastic"], bent, strict=True)]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Parameters:
        """Back from `as_dict`, bit for bit.

        Raises
        ------
        SpecError
            If it is not what `as_dict` gives.
        """
        if content.keys() != COLUMNS.keys():
            raise SpecError(f"parameters have {', '.join(COLUMNS)}; these have {', '.join(map(str, content))}")
        rows = len(content["index"])
        return cls(**{name: _parse(name, content[name], column, rows) for name, column in COLUMNS.items()})


def _check(name: str, array: NDArray[Any], column: Column, rows: int) -> None:
    shape = (rows, *column.row)
    if array.dtype != column.dtype or array.shape != shape:
        raise SpecError(
            f"{name} of parameters must be {column.dtype.__name__} {shape}, not {array.dtype} {array.shape}"
        )
    # so written, not-a-number fails too
    if array.size and not (array.min() >= column.low and array.max() <= column.high):
        raise SpecError(f"{name} of parameters must lie in [{column.low:g}, {column.high:g}]")


def _parse(name: str, value: Any, column: Column, rows: int) -> NDArray[Any]:  # noqa: ANN401
    if name == "elastic":
        value = [np.zeros(column.row, column.dtype) if row is None else row for row in value]
    try:
        given = np.array(value).reshape(rows, *column.row)
        array = given.astype(column.dtype)
        if given.size and (given.dtype.kind not in "biuf" or not (given == array).all()):
            raise ValueError(f"{given.dtype} values that are no {column.dtype.__name__}")
    except (ValueError, TypeError) as error:
        raise SpecError(f"{name} of parameters cannot be read: {error}") from error
    return array
