"""What to build: which datasets, on which grid, how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from atlas.spec.base import Name, Spec


class GridSpec(Spec):
    """The canonical grid: RAS+, isotropic."""

    spacing: Annotated[float, Field(gt=0.1, le=20, strict=False)] = 1.5
    """mm"""


class Resample(Spec):
    """How volumes come onto the grid."""

    labels: Literal["occupancy", "nearest"] = "occupancy"
    antialias: bool = False
    """Smooth the CT before strong downsampling."""


class Storage(Spec):
    """Chunks of the store. The defaults suit random patches from a local disk (design measurements)."""

    chunk: Annotated[int, Field(ge=16, le=256, multiple_of=16)] = 32
    shard: Annotated[int, Field(ge=16, le=2048, multiple_of=16)] = 288
    foreground: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Voxels a class kept for balanced cropping."""

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.shard % self.chunk:
            raise ValueError(f"a shard ({self.shard}) must hold whole chunks ({self.chunk})")
        return self


class Splits(Spec):
    """Shares of the patients; drawn by a hash of the patient group, so adding cases moves nobody."""

    train: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.8
    val: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.1
    test: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9:  # noqa: PLR2004
            raise ValueError("train, val and test must add up to 1")
        return self


class Licences(Spec):
    """What the licence of every dataset must allow."""

    commercial: bool = False


class Recipe(Spec):
    """A build."""

    name: Name
    description: str | None = None
    datasets: tuple[Name, ...] = Field(min_length=1, strict=False)
    grid: GridSpec = GridSpec()
    resample: Resample = Resample()
    storage: Storage = Storage()
    splits: Splits = Splits()
    licences: Licences = Licences()

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.datasets)) != len(self.datasets):
            raise ValueError("a dataset is named twice")
        return self
