"""What patches are aimed at: dataset, then case, then background, organ or lesion, then a class, then a voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atlas.errors import SpecError
from atlas.stream.pools import Pools, cumulative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy
    from atlas.stream.select import CaseIndex

BACKGROUND = -1
"""In place of a bit: the patch is aimed at no class."""

LESION = "lesion"
"""Kind of class of the taxonomy."""

MAX_JITTER = 0.5
"""Fraction of the patch; then the voxel is anywhere in it."""


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn.

    Attributes
    ----------
    datasets
        How often each dataset is drawn from: "uniform" (all alike), "proportional" (to its cases), a temperature
        T (to cases ** (1 / T): 1 is proportional, and the higher the more uniform), or weights by name; a
        dataset that is not named is not drawn from.
    foreground
        background : foreground in cases where no lesion class was annotated. 1 : 2 is what the Universal Model
        takes (RandCropByPosNegLabel, pos 2, neg 1).
    lesions
        background : organ : lesion in cases where a lesion class was annotated. 1 : 1 : 5 is the Universal
        Model's (RandCropByLabelClasses). What a case does not hold is left out and the others keep their ratio.
    classes
        How often each class is drawn among those present in the case: "uniform", "inverse_frequency" (1 / number of
        cases where it is present: the long tail catches up), or weights by name; a class that is not named is
        not aimed at.
    jitter
        How far from the middle of the patch the voxel may lie, as a fraction of the patch, from 0 to 0.5.

    Raises
    ------
    SpecError
        If a value is not one of these.
    """

    datasets: str | float | Mapping[str, float] = "uniform"
    foreground: tuple[float, float] = (1, 2)
    lesions: tuple[float, float, float] = (1, 1, 5)
    classes: str | Mapping[str, float] = "uniform"
    jitter: float = 0.25

    def __post_init__(self) -> None:
        _check_ratio("foreground", self.foreground, ("background", "foreground"))
        _check_ratio("lesions", self.lesions, ("background", "organ", "lesion"))
        _check_choice("datasets", self.datasets, ("uniform", "proportional"), "a temperature above 0, or ")
        _check_choice("classes", self.classes, ("uniform", "inverse_frequency"), "")
        if not _is_number(self.jitter) or self.jitter > MAX_JITTER:
            raise SpecError(f"jitter {self.jitter!r}: it is a fraction of the patch, from 0 to {MAX_JITTER}")


def _is_number(value: object) -> bool:
    """Whether it is a finite number of at least 0."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(0 <= value < math.inf)


def _check_ratio(what: str, value: Sequence[float], parts: tuple[str, ...]) -> None:
    good = (
        isinstance(value, (tuple, list))
        and len(value) == len(parts)
        and all(map(_is_number, value))
        and 0 < sum(value) < math.inf
    )
    if not good:
        raise SpecError(f"{what} {value!r}: it is {' : '.join(parts)}, numbers from 0 that are not all 0")


def _check_choice(what: str, value: object, names: tuple[str, ...], others: str) -> None:
    if isinstance(value, Mapping):
        good = all(map(_is_number, value.values())) and 0 < sum(value.values()) < math.inf
    elif isinstance(value, str):
        good = value in names
    else:
        good = bool(others) and _is_number(value) and value != 0
    if not good:
        raise SpecError(
            f"{what} {value!r}: it is {' or '.join(names)}, or {others}weights by name, from 0 and not all 0"
        )


class Draws(NamedTuple):
    """What n patches are aimed at.

    Attributes
    ----------
    case
        int32 (n,): position in the `CaseIndex`.
    bit
        int16 (n,): the class, or `BACKGROUND`.
    voxel
        float64 (n,) in [0, 1): which of the voxels stored of the class.
    offset
        float64 (n, 3) in [0, 1), (z, y, x): where the voxel lies within the jitter, or, of background, where the
        patch lies in the body.
    """

    case: NDArray[np.int32]
    bit: NDArray[np.int16]
    voxel: NDArray[np.float64]
    offset: NDArray[np.float64]


class Sampler:
    """Turns uniform numbers into what patches are aimed at; a row depends on its own numbers alone.

    Parameters
    ----------
    index
        The cases.
    taxonomy
        Says which classes are lesions.
    sampling
        What to draw.
    classes
        Classes to aim at; None: all.

    Raises
    ------
    SpecError
        If a name is not of the selection or the taxonomy, or if there is a case that no patch can come from.
    """

    WIDTH = 8
    """Uniform numbers a patch: dataset, case, category, class, voxel, and three for the offset."""

    def __init__(
        self,
        index: CaseIndex,
        taxonomy: Taxonomy,
        sampling: Sampling | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if not len(index):
            raise SpecError("there is no case to sample from")
        sampling = sampling or Sampling()
        dataset_weights = _dataset_weights(index, sampling.datasets)
        class_weights = _class_weights(index, taxonomy, sampling.classes, classes)
        lesion = np.array([c.kind == LESION for c in taxonomy.classes])
        entries = class_weights[index.bits]
        self._datasets = cumulative(dataset_weights)
        every = np.arange(len(index), dtype=np.int32)
        self._cases = Pools.of(every, index.dataset, np.ones(len(index)), len(index.datasets))
        self._organs, self._lesions = (
            Pools.of(index.bits, index.owner, np.where(lesion[index.bits] == kind, entries, 0), len(index))
            for kind in (False, True)
        )

        labelled = np.zeros(len(index), bool)
        for bit in np.flatnonzero(lesion & (class_weights > 0)):
            labelled |= index.annotated(int(bit))
        ratios = np.where(labelled[:, None], sampling.lesions, (*sampling.foreground, 0))
        reachable = np.stack([np.ones(len(index), bool), self._organs.filled, self._lesions.filled], axis=1)
        _check_reachable(index, (ratios * reachable).any(axis=1) | (dataset_weights[index.dataset] == 0))
        self._categories = cumulative(ratios * reachable)

    def draw(self, u: NDArray[np.float64]) -> Draws:
        """What patches are aimed at.

        Parameters
        ----------
        u
            float64 (n, `WIDTH`), uniform in [0, 1).
        """
        dataset = np.searchsorted(self._datasets, u[:, 0], side="right")
        case = self._cases.pick(dataset, u[:, 1])
        category = (u[:, 2, None] >= self._categories[case, :2]).sum(axis=1)
        bit = np.full(len(u), BACKGROUND, np.int16)
        for number, pools in ((1, self._organs), (2, self._lesions)):
            rows = np.flatnonzero(category == number)
            bit[rows] = pools.pick(case[rows], u[rows, 3])
        return Draws(case=case, bit=bit, voxel=u[:, 4], offset=u[:, 5:8])


def _dataset_weights(index: CaseIndex, choice: str | float | Mapping[str, float]) -> NDArray[np.float64]:
    if isinstance(choice, Mapping):
        if unknown := sorted(set(choice) - set(index.datasets)):
            raise SpecError(f"datasets: {', '.join(unknown)} is not in the selection: {', '.join(index.datasets)}")
        return np.array([float(choice.get(name, 0)) for name in index.datasets])
    power = {"uniform": 0.0, "proportional": 1.0}[choice] if isinstance(choice, str) else 1 / choice
    logs = power * np.log(np.bincount(index.dataset, minlength=len(index.datasets)))
    weights: NDArray[np.float64] = np.exp(logs - logs.max())  # a temperature near 0 must not overflow
    return weights


def _class_weights(
    index: CaseIndex,
    taxonomy: Taxonomy,
    choice: str | Mapping[str, float],
    classes: Sequence[str] | None,
) -> NDArray[np.float64]:
    """(classes of the taxonomy,): weight of each, 0 of those that are not asked for."""
    asked = {name: taxonomy.bit(name) for name in (taxonomy.names if classes is None else classes)}
    weights = np.ones(len(taxonomy))
    if isinstance(choice, Mapping):
        for name in choice:
            taxonomy.bit(name)
        if others := sorted(set(choice) - set(asked)):
            raise SpecError(f"classes: weights of {', '.join(others)}, which are not among those asked for")
        weights = np.array([float(choice.get(name, 0)) for name in taxonomy.names])
    elif choice == "inverse_frequency":
        weights = 1 / np.maximum(np.bincount(index.bits, minlength=len(taxonomy)), 1)
    weights[np.setdiff1d(np.arange(len(taxonomy)), list(asked.values()))] = 0
    return weights


def _check_reachable(index: CaseIndex, reachable: NDArray[np.bool_]) -> None:
    if not reachable.all():
        first = index.case_ids[~reachable][0]
        raise SpecError(
            f"{(~reachable).sum()} cases hold nothing that a patch may be aimed at, {first} the first; give "
            'background a weight above 0, or leave them out (present=..., or where="len(present) > 0")'
        )
