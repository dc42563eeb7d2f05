"""Weighted draws of many owners at once, without a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums along the last axis, ending in exactly 1 from the last weight above 0 on."""
    sums = np.cumsum(weights, axis=-1, dtype=np.float64)
    total = sums[..., -1:]
    return np.divide(sums, total, out=np.ones_like(sums), where=total > 0)


class Pools(NamedTuple):
    """Weighted values of many owners: those of owner i are values[starts[i]:starts[i + 1]]."""

    values: NDArray[Any]
    starts: NDArray[np.int64]
    cumulative: NDArray[np.float64]
    """(values + 1,): sums of the weights up to each value; every owner's weights add up to 1."""

    @classmethod
    def of(cls, values: NDArray[Any], owner: NDArray[np.integer], weights: NDArray[np.float64], owners: int) -> Pools:
        """Values by owner; those of weight 0 are left out."""
        kept = np.flatnonzero(weights > 0)
        kept = kept[np.argsort(owner[kept], kind="stable")]
        owner, weights = owner[kept], weights[kept]
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=owners))])
        # shares, not weights: one large weight would drown the small ones of other owners in rounding
        shares = weights / np.bincount(owner, weights, minlength=owners)[owner]
        return cls(values[kept], starts, np.concatenate([[0.0], np.cumsum(shares)]))

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Owners that have any value."""
        result: NDArray[np.bool_] = self.starts[1:] > self.starts[:-1]
        return result

    def pick(self, owner: NDArray[np.integer], u: NDArray[np.float64]) -> NDArray[Any]:
        """One value of each owner, all of which have some."""
        first, end = self.starts[owner], self.starts[owner + 1]
        low, high = self.cumulative[first], self.cumulative[end]
        position = np.searchsorted(self.cumulative, low + u * (high - low), side="right") - 1
        picked: NDArray[Any] = self.values[np.clip(position, first, end - 1)]  # rounding may reach a neighbour
        return picked
