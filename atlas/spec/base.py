"""What every specification has in common: unknown keys are refused, and no value is guessed at."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
"""An identifier: letters, digits and underscores (vertebrae_L1, liver_tumor)."""

Strings = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of strings."""


class Spec(BaseModel):
    """A part of a YAML file. Strict: `0014` is not a string and "1" is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
