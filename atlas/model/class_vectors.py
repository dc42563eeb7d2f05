"""The class embedding as a part of a network: given and fixed, or learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from atlas.errors import SpecError
from atlas.model.embeddings import ClassEmbeddings, check_names, check_shape

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClassVectors(nn.Module):
    """What all kinds have in common.

    Calling one gives float (K, E), or (n, E) for an integer tensor (n,) of rows.
    """

    names: tuple[str, ...]
    """Classes in row order."""

    vectors: torch.Tensor
    """(K, E)."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    def forward(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of `rows`, default all."""
        return self.vectors if rows is None else self.vectors[rows]

    def rows(self, names: Sequence[str]) -> torch.Tensor:
        """Row numbers of classes, int64 (n,).

        Raises
        ------
        SpecError
            If a class has no row; lists those that have one.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise SpecError(f"no vector of {', '.join(missing)}; there are: {', '.join(self.names)}")
        return torch.tensor([self.names.index(name) for name in names], dtype=torch.int64)


class FixedVectors(ClassVectors):
    """Vectors that training does not change: of a text encoder, hashed, one-hot or from a file."""

    def __init__(self, embeddings: ClassEmbeddings) -> None:
        super().__init__()
        self.names, self.embeddings = embeddings.names, embeddings
        self.register_buffer("vectors", embeddings.vectors.clone())

    def extended(self, other: ClassEmbeddings) -> FixedVectors:
        """The same with more classes; see `ClassEmbeddings.extended`."""
        return FixedVectors(self.embeddings.extended(other)).to(self.vectors.device)


class LearnedVectors(ClassVectors):
    """Vectors that training makes, drawn from N(0, 1) at first: the baseline without text.

    Parameters
    ----------
    names
        Of the classes.
    width
        Length of a vector; 256 is what the paper's code has.
    seed
        Of the first values.
    """

    def __init__(self, names: Sequence[str], width: int = 256, seed: int = 0) -> None:
        super().__init__()
        check_names(tuple(names))
        check_shape((len(names), width))
        self.names = tuple(names)
        # a generator of its own, so that the state of the global one is neither read nor moved
        drawn = torch.randn(len(names), width, generator=torch.Generator().manual_seed(seed))
        self.vectors = nn.Parameter(drawn)

    def extended(self, names: Sequence[str], seed: int = 1) -> LearnedVectors:
        """The same with more classes, their vectors drawn anew; those that are here keep their values.

        Raises
        ------
        SpecError
            If a class is there already.
        """
        longer = LearnedVectors((*self.names, *names), self.width, seed)
        with torch.no_grad():
            longer.vectors[: len(self.names)] = self.vectors.cpu()
        return longer.to(self.vectors.device)
