"""The table of structures that phantoms are made of (`shapes.yaml`, which says what the entries mean)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from atlas.spec.base import Spec
from atlas.spec.strict_yaml import validated
from atlas.spec.taxonomy import Side

Sex = Literal["female", "male"]

Number = Annotated[float, Field(strict=False)]
Blob = Annotated[tuple[Number, Number, Number, Number, Number, Number], Field(strict=False)]
Tube = Annotated[
    tuple[Annotated[tuple[Number, Number, Number, Number], Field(strict=False)], ...],
    Field(strict=False, min_length=2),
]


class Structure(Spec):
    """An entry of the table. Lengths in mm, in the body's frame."""

    name: str
    hu: Number
    blobs: tuple[Blob, ...] = Field(default=(), strict=False)
    power: tuple[Number, Number, Number] = Field(default=(2.0, 2.0, 2.0), strict=False)
    tubes: tuple[Tube, ...] = Field(default=(), strict=False)
    mirrored: bool = False
    inside: str | None = None
    over: str | None = None
    also: tuple[str, ...] = Field(default=(), strict=False)
    filled: bool = False
    chance: Annotated[float, Field(ge=0, le=1, strict=False)] = 1.0
    sex: Sex | None = None
    side: Side | None = None

    def on(self, side: Side) -> Structure:
        """Put a structure with {side} on one side."""

        def named(text: str | None) -> str | None:
            return text and text.replace("{side}", side)

        names = {"name": named(self.name), "inside": named(self.inside), "over": named(self.over)}
        return self.model_copy(update={**names, "side": side})


class Shapes(Spec):
    """The table."""

    structures: tuple[Structure, ...] = Field(strict=False)


@cache
def load_shapes() -> Shapes:
    """Read the table that atlas ships."""
    return validated(Shapes, files("atlas.phantom").joinpath("shapes.yaml"))
