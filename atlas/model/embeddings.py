"""One vector a class, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from atlas.corpus.record import digest
from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["hashed", "one-hot", "encoder", "file"]

MAX_CLASSES = 4096
MAX_WIDTH = 16_384


@dataclass(frozen=True, eq=False)
class ClassEmbeddings:
    """One vector a class.

    Parameters
    ----------
    names
        Of the classes, in row order.
    vectors
        float32 (K, E), on the CPU, not normalised unless its kind says so. Not to be written to.
    kind
        hashed (letters and words, no meaning), one-hot, encoder (a text encoder) or file (a user's own).
    model
        What made the vectors, exact enough to make them again.
    template
        Text of the template, with [CLS] for the words of a class; "" where there is none.
    prompts
        What the model read for each class; "" for a file of one's own.

    Raises
    ------
    SpecError
        If there are not as many prompts and rows as names, a name comes twice, there are more than 4096 classes or
        16384 columns, a value is not finite, or two classes have the same vector, so that a network could not tell
        them apart.
    """

    names: tuple[str, ...]
    vectors: torch.Tensor
    kind: Kind
    model: str
    template: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        check_names(self.names)
        if len(self.prompts) != len(self.names):
            raise SpecError(f"{len(self.prompts)} prompts for {len(self.names)} classes")
        check_shape(tuple(self.vectors.shape))
        if len(self.vectors) != len(self.names):
            raise SpecError(f"{len(self.vectors)} rows for {len(self.names)} classes")
        object.__setattr__(self, "vectors", self.vectors.detach().to("cpu", torch.float32).contiguous().clone())
        _check_values(self.names, self.vectors)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> str:
        """sha256 of model, template, class names and prompts: of all that decides the vectors."""
        return request_digest(self.model, self.template, self.names, self.prompts)

    def select(self, names: Sequence[str]) -> ClassEmbeddings:
        """Rows of some classes, in the order of `names`.

        Raises
        ------
        SpecError
            If a class has no row; lists those that have one.
        """
        row = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in row]
        if missing:
            raise SpecError(f"no embedding of {', '.join(missing)}; there are: {', '.join(self.names)}")
        rows = [row[name] for name in names]
        prompts = tuple(self.prompts[i] for i in rows)
        return ClassEmbeddings(tuple(names), self.vectors[rows], self.kind, self.model, self.template, prompts)

    def extended(self, other: ClassEmbeddings) -> ClassEmbeddings:
        """These classes followed by those of `other`; rows that are here keep their place and their values.

        Raises
        ------
        SpecError
            If a class is in both, or the two do not come from the same model and template, so that their vectors
            do not lie in one space.
        """
        mine, theirs = (self.kind, self.model, self.template), (other.kind, other.model, other.template)
        if mine != theirs or self.width != other.width:
            raise SpecError(
                f"embeddings of {other.model} ({other.width} wide, template {other.template!r}) cannot extend those of "
                f"{self.model} ({self.width} wide, template {self.template!r}); make the new rows the same way"
            )
        both = [name for name in other.names if name in self.names]
        if both:
            raise SpecError(f"already there: {', '.join(both)}")
        vectors = torch.cat([self.vectors, other.vectors])
        return ClassEmbeddings(self.names + other.names, vectors, *mine, self.prompts + other.prompts)


def one_hot_embeddings(names: Sequence[str], width: int | None = None, first: int = 0) -> ClassEmbeddings:
    """One column a class, the baseline that knows nothing of any class.

    Parameters
    ----------
    names
        Of the classes.
    width
        Length of a vector, default just enough. Columns left over are room for classes that come later.
    first
        Column of the first class: for classes that extend others, the number of those.

    Raises
    ------
    SpecError
        If the columns do not suffice.
    """
    width = first + len(names) if width is None else width
    if first < 0 or first + len(names) > width:
        raise SpecError(f"{len(names)} classes from column {first} on do not fit {width} columns")
    check_shape((len(names), width))
    vectors = torch.zeros(len(names), width)
    vectors[torch.arange(len(names)), torch.arange(len(names)) + first] = 1
    return ClassEmbeddings(tuple(names), vectors, "one-hot", "one-hot", "", ("",) * len(names))


def request_digest(model: str, template: str, names: Sequence[str], prompts: Sequence[str]) -> str:
    """sha256 of what decides the vectors of classes."""
    return digest({"model": model, "template": template, "names": list(names), "prompts": list(prompts)})


def check_names(names: Sequence[str]) -> None:
    """Refuse no names, empty names and names that come twice."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SpecError(f"classes named twice: {', '.join(twice)}")
    if not names or not all(names):
        raise SpecError("embeddings need at least one class, and a name for each")


def check_shape(shape: Sequence[int]) -> None:
    """Refuse anything but (classes, width) within bounds, before memory is spent on it."""
    if len(shape) != 2:  # noqa: PLR2004
        raise SpecError(f"embeddings are a table (classes, width), not of shape {tuple(shape)}")
    if not (1 <= shape[0] <= MAX_CLASSES and 1 <= shape[1] <= MAX_WIDTH):
        raise SpecError(f"a table of shape {tuple(shape)} is out of bounds (1, 1) to ({MAX_CLASSES}, {MAX_WIDTH})")


def _check_values(names: Sequence[str], vectors: torch.Tensor) -> None:
    finite = torch.isfinite(vectors).all(dim=1).tolist()
    if not all(finite):
        bad = ", ".join(name for name, good in zip(names, finite, strict=True) if not good)
        raise SpecError(f"values that are not finite in the rows of {bad}")
    seen: dict[bytes, str] = {}
    for name, row in zip(names, vectors.numpy(), strict=True):
        first = seen.setdefault(row.tobytes(), name)
        if first != name:
            raise SpecError(f"{first} and {name} have the same vector, so nothing could tell them apart")
