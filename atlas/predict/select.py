"""Which channels of a model are needed for the classes that are wanted, and in what order they are painted."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.errors import SpecError
from atlas.train.postprocess import lateral_pairs, lesions_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.spec.taxonomy import Taxonomy
    from atlas.spec.training import PostprocessSpec


@dataclass(frozen=True)
class Selection:
    """What to predict.

    Attributes
    ----------
    classes
        To be written, in the order asked for: the first has label 1.
    helpers
        Further classes that post-processing needs; they are predicted and not written.
    rows
        Channels of the model: those of the classes, then those of the helpers.
    """

    classes: tuple[str, ...]
    helpers: tuple[str, ...]
    rows: tuple[int, ...]

    @property
    def predicted(self) -> tuple[str, ...]:
        """Class of each row."""
        return (*self.classes, *self.helpers)


def select(
    channels: Sequence[str], wanted: Sequence[str] | None, taxonomy: Taxonomy, spec: PostprocessSpec
) -> Selection:
    """Choose channels.

    Parameters
    ----------
    channels
        Classes of the model.
    wanted
        Of them; None: all.
    taxonomy, spec
        What post-processing will look at.

    Raises
    ------
    SpecError
        If the model has no such class; lists names that are close.
    """
    classes = tuple(dict.fromkeys(channels if wanted is None else wanted))
    if not classes:
        raise SpecError(f"no class is asked for; the model has {', '.join(channels)}")
    for name in classes:
        if name not in channels:
            raise SpecError(f"{name!r} is not a class of this model; {_close(name, channels)}")
    helpers = [name for name in _needed(classes, channels, taxonomy, spec) if name not in classes]
    chosen = (*classes, *dict.fromkeys(helpers))
    return Selection(classes, chosen[len(classes) :], tuple(channels.index(name) for name in chosen))


def _needed(classes: Sequence[str], channels: Sequence[str], taxonomy: Taxonomy, spec: PostprocessSpec) -> list[str]:
    """Organs of the lesions, and then the other sides of all of those."""
    needed = list(classes)
    if spec.organ_margin is not None:
        within = lesions_within(taxonomy, channels)
        needed += [organ for name in classes for organ in within.get(name, ())]
    if spec.sides:
        pairs = list(lateral_pairs(taxonomy, channels))
        needed += [name for pair in pairs if set(pair) & set(needed) for name in pair]
    return needed


def _close(name: str, channels: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, channels, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(channels)}"


def paint_order(classes: Sequence[str], taxonomy: Taxonomy) -> list[int]:
    """Indices of the classes, wholes before what is part of them, else in the order given."""

    def depth(name: str) -> int:
        above = [taxonomy.classes[bit].name for p in taxonomy.by_name[name].parents for bit in taxonomy.target_bits(p)]
        return 1 + max(map(depth, above), default=-1)

    return sorted(range(len(classes)), key=lambda index: depth(classes[index]))
