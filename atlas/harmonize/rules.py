"""A label map, compiled: which bits a source label sets, and which classes it makes available.

Beyond the bits of the taxonomy, one working bit stands for each pair whose side is still to be found, and one
for "nobody can tell"; `reconcile` resolves them and none of them reaches the corpus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.spec.label_map import UNKNOWN, LabelMap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.spec.taxonomy import Taxonomy


ANYTHING = "*"
"""In the name of a structure, stands for any characters or none."""


@dataclass(frozen=True)
class Need:
    """What must be there for a target: all of `every`, or, where nothing is always drawn for it, one of `some`."""

    every: frozenset[str]
    some: frozenset[str]

    def met(self, present: frozenset[str]) -> bool:
        """Whether the labels that a case has suffice."""
        return self.every <= present if self.every else not self.some.isdisjoint(present)


@dataclass(frozen=True)
class LabelRules:
    """What every label of a dataset does.

    Attributes
    ----------
    values
        Label file -> source value -> bitmask.
    structures
        Name of a structure as the label map has it, maybe with `*` -> bitmask.
    needs
        Bitmask-free availability: target -> the label files and structures that must be there for it.
    pair_bits
        Pair -> its working bit, wholes before their parts.
    unknown_bit
        Working bit of ignore values.
    """

    taxonomy: Taxonomy
    label_map: LabelMap
    values: dict[str, dict[int, int]]
    structures: dict[str, int]
    needs: dict[str, Need]
    pair_bits: dict[str, int]
    unknown_bit: int

    def available(self, layers: Iterable[str], case: str) -> int:
        """Bitmask of the classes annotated in a case.

        Parameters
        ----------
        layers
            Names of the label files and structures that the case has.
        case
            Source case, for its exceptions.
        """
        present = frozenset(name for layer in layers if (name := self.entry(layer)) is not None)
        bits = 0
        for target, need in self.needs.items():
            if need.met(present):
                bits |= self.mask_of(target)
        if case in self.label_map.cases:
            for target in self.label_map.cases[case].unavailable:
                bits &= ~self.mask_of(target)
        return bits

    def entry(self, layer: str) -> str | None:
        """Name in the label map that a label file or structure goes by; None if the map does not explain it.

        A name that the map spells out wins over the patterns that it is like, and of these the longest.
        """
        if layer in self.values or layer in self.structures:
            return layer
        like = [name for name in self.structures if ANYTHING in name and _like(name, layer)]
        return max(like, key=lambda name: (len(name), name), default=None)

    def mask_of(self, target: str) -> int:
        """Bitmask of a class, or of both classes of a pair."""
        return sum(1 << bit for bit in self.taxonomy.target_bits(target))


def compile_rules(label_map: LabelMap, taxonomy: Taxonomy) -> LabelRules:
    """Resolve a label map against the taxonomy.

    A part also sets the bits of its wholes, but only of those that the same map names: a colon tumour does not
    make a colon where no colon was drawn.
    """
    named = label_map.targets()
    depth = {pair: len(taxonomy.wholes(pair)) for pair in taxonomy.pairs}
    pair_bits = {p: len(taxonomy) + i for i, p in enumerate(sorted(depth, key=lambda p: (depth[p], p)))}
    unknown_bit = len(taxonomy) + len(pair_bits)

    def bits(targets: tuple[str, ...]) -> int:
        result = 0
        for target in targets:
            if target == UNKNOWN:
                result |= 1 << unknown_bit
                continue
            for each in {target, *(w for w in taxonomy.wholes(target) if _names(taxonomy, named, w))}:
                result |= 1 << (pair_bits[each] if each in pair_bits else taxonomy.bit(each))
        return result

    return LabelRules(
        taxonomy=taxonomy,
        label_map=label_map,
        values={file: {v: bits(t) for v, t in values.items()} for file, values in label_map.values.items()},
        structures={stem: bits(targets) for stem, targets in label_map.structures.items()},
        needs=_needs(label_map),
        pair_bits=pair_bits,
        unknown_bit=unknown_bit,
    )


def _names(taxonomy: Taxonomy, named: frozenset[str], whole: str) -> bool:
    """Whether a map annotates `whole`: by name, as a side of a named pair, or as a pair of two named sides."""
    if whole in named:
        return True
    if whole in taxonomy.pairs:
        return all(c.name in named for c in taxonomy.pairs[whole])
    return taxonomy.by_name[whole].pair in named


def _like(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split(ANYTHING))), name, re.DOTALL) is not None


def _needs(label_map: LabelMap) -> dict[str, Need]:
    """Target -> what is drawn on its own account for it."""
    sources: dict[str, set[str]] = {}
    for file, values in label_map.values.items():
        for targets in values.values():
            for target in targets:
                sources.setdefault(target, set()).add(file)
    for name, targets in label_map.structures.items():
        for target in targets:
            sources.setdefault(target, set()).add(name)
    sources.pop(UNKNOWN, None)
    optional = frozenset(label_map.optional)
    return {target: Need(frozenset(drawn) - optional, frozenset(drawn) & optional) for target, drawn in sources.items()}
