"""The classes of the corpus: which bit, which side, part of what, and what they are called elsewhere."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from atlas.errors import SpecError
from atlas.spec.base import Name, Spec, Strings

Side = Literal["left", "right"]
Colour = Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(min_length=3, max_length=3, strict=False)]
Code = Annotated[str, Field(pattern=r"^\d{6,18}$")]

BOTH = "left/right"
"""In a target, stands for "left or right, to be found out": kidney_left/right."""


class Snomed(Spec):
    """SNOMED CT codes, in the roles that DICOM segmentations use.

    Type codes are not unique per class: laterality is a modifier of its own.
    """

    category: Code
    type: Code
    meaning: str
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None
    verified: bool = True


class AnatomicalClass(Spec):
    """One class of the taxonomy."""

    bit: Annotated[int, Field(ge=0)]
    name: Name
    kind: Literal["organ", "lesion", "vessel", "bone", "muscle", "other"]
    side: Side | None = None
    mirror: Name | None = None
    parents: Strings = ()
    definition: str | None = None
    synonyms: Strings = ()
    prompt: str
    snomed: Snomed | None = None
    colour: Colour

    @property
    def pair(self) -> str | None:
        """Name of the unsided concept: kidney_left/right for kidney_left and kidney_right."""
        return self.name.replace(f"_{self.side}", f"_{BOTH}", 1) if self.side else None


class Taxonomy(Spec):
    """All classes, in bit order.

    A **target** is what a source label may mean: the name of a class, or of a pair such as
    kidney_left/right, which says that the side is not known at the source.
    """

    version: int
    classes: tuple[AnatomicalClass, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [c.bit for c in self.classes] != list(range(len(self.classes))):
            raise ValueError("bits must count up from 0 without a gap, in order of the list")
        if len(self.by_name) != len(self.classes):
            names = [c.name for c in self.classes]
            raise ValueError(f"named twice: {sorted({n for n in names if names.count(n) > 1})}")
        for c in self.classes:
            self._check_mirror(c)
            for parent in c.parents:
                self.target_bits(parent)
        self._check_cycles()
        return self

    def _check_mirror(self, c: AnatomicalClass) -> None:
        if (c.side is None) != (c.mirror is None):
            raise ValueError(f"{c.name}: side and mirror come together or not at all")
        if c.side is None:
            return
        other = self.by_name.get(c.mirror or "")
        if other is None or other.mirror != c.name or other.side == c.side or other.pair != c.pair:
            raise ValueError(f"{c.name}: its mirror {c.mirror} must be the same name of the other side")

    def _check_cycles(self) -> None:
        for c in self.classes:
            if c.bit in {b for p in c.parents for t in self._wholes(p, depth=0) for b in self.target_bits(t)}:
                raise ValueError(f"{c.name} is part of itself")

    def _wholes(self, target: str, depth: int) -> set[str]:
        if depth > len(self.classes):
            raise ValueError(f"{target} is part of itself")
        above = {p for bit in self.target_bits(target) for p in self.classes[bit].parents}
        if target in self.pairs:  # of unknown side, so part of a whole whose side is not known either
            above = {(self.by_name[p].pair or p) if p in self.by_name else p for p in above}
        return {target}.union(*(self._wholes(p, depth + 1) for p in above))

    @cached_property
    def by_name(self) -> dict[str, AnatomicalClass]:
        """Classes by name."""
        return {c.name: c for c in self.classes}

    @cached_property
    def pairs(self) -> dict[str, tuple[AnatomicalClass, AnatomicalClass]]:
        """Left and right class of every pair, by the pair's name."""
        left = {c.pair: c for c in self.classes if c.side == "left" and c.pair}
        right = {c.pair: c for c in self.classes if c.side == "right" and c.pair}
        return {pair: (left[pair], right[pair]) for pair in left if pair in right}

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in bit order."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def text(self) -> str:
        """The taxonomy as JSON."""
        return self.model_dump_json()

    def __len__(self) -> int:
        return len(self.classes)

    def wholes(self, target: str) -> frozenset[str]:
        """All targets that `target` is part of, directly or through others, itself excluded.

        A pair of which a side is among them is left out: the cyst of the left kidney is part of kidney_left, so
        it does not need kidney_left/right to be found out.
        """
        found = self._wholes(target, depth=0) - {target}
        return frozenset(t for t in found if not any(c.name in found for c in self.pairs.get(t, ())))

    def target_bits(self, target: str) -> tuple[int, ...]:
        """Bits of a class, or of both classes of a pair.

        Raises
        ------
        SpecError
            If there is no such class or pair; lists names that are close.
        """
        if target in self.by_name:
            return (self.by_name[target].bit,)
        if target in self.pairs:
            return tuple(c.bit for c in self.pairs[target])
        raise SpecError(f"{target!r} is not a class of the taxonomy{self._suggestion(target)}")

    def bit(self, name: str) -> int:
        """Bit of one class.

        Raises
        ------
        SpecError
            If there is no such class; lists names that are close.
        """
        if name not in self.by_name:
            raise SpecError(f"{name!r} is not a class of the taxonomy{self._suggestion(name)}")
        return self.by_name[name].bit

    def members(self, bitmask: int) -> tuple[str, ...]:
        """Names of the classes of a bitmask, in bit order."""
        return tuple(c.name for c in self.classes if bitmask >> c.bit & 1)

    def _suggestion(self, name: str) -> str:
        import difflib

        synonyms = {s.lower().replace(" ", "_"): c.name for c in self.classes for s in c.synonyms}
        plain = name.lower().replace(" ", "_")
        if plain in synonyms:
            return f"; did you mean {synonyms[plain]}?"
        close = difflib.get_close_matches(name, [*self.by_name, *self.pairs], n=3, cutoff=0.5)
        return f"; did you mean {' or '.join(close)}?" if close else f"; valid are: {', '.join(self.by_name)}"
