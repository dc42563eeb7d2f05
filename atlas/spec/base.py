"""What every specification has in common: unknown keys are refused, and no value is guessed at."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
"""An identifier: letters, digits and underscores (vertebrae_L1, liver_tumor)."""

Strings = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of strings."""


class Spec(BaseModel):
    """A part of a YAML file. Strict: `0014` is not a string and "1" is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def regex(text: str) -> str:
    """Check a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def below(text: str) -> str:
    """Check a relative path that must not lead out of the dataset's folder."""
    if text.startswith("/") or ".." in text.split("/") or "\\" in text or not text.isprintable():
        raise ValueError(f"{text!r} must stay below the dataset's folder")
    return text
