"""The channels of a mask: which classes, in which order, and which bit of the corpus each of them reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy


def named(taxonomy: Taxonomy, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Classes asked for, in their order; all of the taxonomy in bit order if that is None.

    Raises
    ------
    SpecError
        If one is unknown or named twice, or there is none.
    """
    if classes is None:
        return taxonomy.names
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    for name in names:
        taxonomy.bit(name)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise SpecError(f"classes asked for more than once: {', '.join(twice)}" if twice else "no class is asked for")
    return names


def bits(taxonomy: Taxonomy, names: Sequence[str], mirrored: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Bit that each channel reads, int64 (B, C).

    Parameters
    ----------
    taxonomy, names
        Classes of the channels.
    mirrored
        bool (B,): patches whose left and right are swapped. What looks left in them was right in the body, so that
        a channel reads the bit of its mirror class.
    """
    plain = [taxonomy.bit(name) for name in names]
    swapped = [taxonomy.bit(_mirror(taxonomy, name)) for name in names]
    return np.where(mirrored[:, None], np.array(swapped), np.array(plain))


def aimed(taxonomy: Taxonomy, target: Sequence[str | None], mirrored: NDArray[np.bool_]) -> tuple[str | None, ...]:
    """Classes that patches were aimed at, as they are called after mirroring."""
    return tuple(_mirror(taxonomy, t) if t and m else t for t, m in zip(target, mirrored.tolist(), strict=True))


def _mirror(taxonomy: Taxonomy, name: str) -> str:
    return taxonomy.by_name[name].mirror or name
