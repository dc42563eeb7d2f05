"""Parameters of augmentation by patch number: row i of a run depends on (seed, i) and the settings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import SpecError
from atlas.stream.augment.parameters import COLUMNS, CONTROL, Parameters
from atlas.stream.counter import AUGMENTATION, uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.stream.augment.settings import Augmentation, Chance

    Floats = NDArray[np.float64]

SPAN = CONTROL - 3
"""Control point spacings that cover a patch: a cubic B-spline takes four points a span."""

INJECTIVE = 1 / 2.479472335
"""Displacement of control points, in spacings, below which a cubic B-spline deformation cannot fold.

Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions, Graphical Models 62, 2000 (1 / K3).
"""

# Uniform numbers that each transform takes. The order, and the room that is left, are part of what a seed means.
_TAKEN = {
    "rotation": 4,
    "scaling": 4,
    "elastic": 2,
    "quarter_turns": 2,
    "mirror": 1,
    "noise": 2,
    "noise_key": 2,
    "blur": 4,
    "brightness": 2,
    "contrast": 2,
    "shift": 2,
    "low_resolution": 2,
    "inverted_gamma": 2,
    "gamma": 2,
}
_SINGLE = 48
_FIELD = 3 * CONTROL**3
WIDTH = _SINGLE + _FIELD
"""Uniform numbers a patch."""


def draw_parameters(
    settings: Augmentation, seed: int, index: Sequence[int] | NDArray[Any], patch: tuple[int, int, int]
) -> Parameters:
    """Draw what happens to patches.

    Parameters
    ----------
    settings
        What may happen.
    seed
        Seed of the run.
    index
        (B,) numbers of the patches, in any order.
    patch
        Voxels (z, y, x) of a patch. Where y and x differ, quarter turns are by 180 degrees.

    Raises
    ------
    SpecError
        If a number or the patch is not possible, or the elastic field could fold in a patch of this size.
    """
    numbers = _numbers(index)
    _check_patch(patch, settings.elastic)
    u = np.concatenate(
        [np.empty((0, WIDTH)), *(uniforms(seed, AUGMENTATION, int(r[0]), len(r), WIDTH) for r in _runs(numbers))]
    )
    columns = _columns(u)
    factors = {
        name: _factor(getattr(settings, name), columns[name], COLUMNS[name].neutral)
        for name in ("brightness", "contrast", "inverted_gamma", "gamma")
    }
    amounts = {
        name: _amount(getattr(settings, name), columns[name], COLUMNS[name].neutral)[:, 0]
        for name in ("noise", "shift", "low_resolution")
    }
    return Parameters(
        index=numbers,
        rotation=_amount(settings.rotation, columns["rotation"], 0.0),
        scale=_scale(settings, columns["scaling"]),
        elastic=_field(settings.elastic, columns["elastic"], u[:, _SINGLE:]),
        quarter_turns=_turns(settings.quarter_turns, columns["quarter_turns"], square=patch[1] == patch[2]),
        mirror=columns["mirror"][:, 0] < settings.mirror,
        noise_key=(columns["noise_key"] * 2.0**32).astype(np.uint32),
        blur=_amount(settings.blur, columns["blur"], 0.0),
        **factors,
        **amounts,
    )


def _numbers(index: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    given = np.asarray(index)
    if given.ndim != 1 or (given.size and (given.dtype.kind not in "iu" or given.min() < 0)):
        raise SpecError(f"numbers of patches are whole, from 0, in one dimension; not {index!r}")
    return given.astype(np.int64)


def _check_patch(patch: tuple[int, int, int], elastic: Chance) -> None:
    if np.shape(patch) != (3,) or min(patch) < 1:
        raise SpecError(f"a patch has three sides (z, y, x) of at least one voxel, not {patch!r}")
    limit = INJECTIVE * min(patch) / SPAN
    if elastic.probability and elastic.high > limit:
        raise SpecError(
            f"elastic displacements of up to {elastic.high:g} voxels could fold a patch of {patch}; "
            f"at most {limit:.2f} are safe"
        )


def _runs(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Numbers cut where they do not count up by one."""
    return [run for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(run)]


def _columns(u: Floats) -> dict[str, Floats]:
    ends = np.cumsum(list(_TAKEN.values()))
    return {name: u[:, end - taken : end] for (name, taken), end in zip(_TAKEN.items(), ends.tolist(), strict=True)}


def _amount(chance: Chance, u: Floats, neutral: float) -> Floats:
    """Uniform in the range where the first column says that it happens; float64 (B, columns - 1)."""
    value = chance.low + (chance.high - chance.low) * u[:, 1:]
    return np.where(u[:, :1] < chance.probability, value, neutral)


def _factor(chance: Chance, u: Floats, neutral: float) -> Floats:
    """As `_amount`, (B,), but below and above 1 equally often if the range holds it."""
    low, high, v = chance.low, chance.high, u[:, 1]
    if not low < 1 < high:
        return _amount(chance, u, neutral)[:, 0]
    value = np.where(v < 0.5, low + (1 - low) * 2 * v, 1 + (high - 1) * (2 * v - 1))  # noqa: PLR2004
    return np.where(u[:, 0] < chance.probability, value, neutral)


def _scale(settings: Augmentation, u: Floats) -> Floats:
    return _amount(settings.scaling, u if settings.per_axis else u[:, [0, 1, 1, 1]], 1.0)


def _field(chance: Chance, u: Floats, field: Floats) -> NDArray[np.float32]:
    """Displacements of control points, uniform up to the amplitude drawn; float32 (B, 3, 7, 7, 7)."""
    amplitude = _amount(chance, u, 0.0)
    # 0.0 is added because 0 times a negative number is -0.0, which a kept field that is zero does not give back
    displacement = (amplitude * (2 * field - 1) + 0.0).astype(np.float32)
    return displacement.reshape(-1, 3, CONTROL, CONTROL, CONTROL)


def _turns(probability: float, u: Floats, *, square: bool) -> NDArray[np.int64]:
    turns = 1 + (3 * u[:, 1]).astype(np.int64) if square else np.full(len(u), 2)
    return np.where(u[:, 0] < probability, turns, 0)
