"""An array of a case among other objects: what its shards are called, and which of them may be missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from atlas.errors import CorpusError
from atlas.stream.opened import CT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Triple = tuple[int, int, int]

LARGEST_CHUNK = 1 << 27
"""Voxels of a chunk, which is decoded as a whole."""


@dataclass
class Stored:
    """An array, open.

    Attributes
    ----------
    name
        Path below the case.
    array
        tensorstore.TensorStore.
    metadata
        zarr.json of it.
    shard, chunk
        Voxels (z, y, x) of an object, and of what is decoded as a whole.
    fill
        Value of voxels that are not stored.
    prefix, separator
        Of the objects' names.
    empty
        Shards that were never written, for all their voxels have the fill value.
    """

    name: str
    array: Any
    metadata: Mapping[str, Any]
    shard: Triple
    chunk: Triple
    fill: int
    prefix: list[str]
    separator: str
    empty: set[Triple] = field(default_factory=set)

    @classmethod
    def of(cls, name: str, array: Any, metadata: Mapping[str, Any]) -> Stored:  # noqa: ANN401
        """Array of a case, opened by tensorstore with this metadata.

        Raises
        ------
        CorpusError
            If the metadata is not complete, or a chunk could fill the memory.
        """
        shard, chunk = chunks_of(name, metadata)
        try:
            encoding = metadata["chunk_key_encoding"]
            prefix, usual = (["c"], "/") if encoding["name"] == "default" else ([], ".")
            separator = str(encoding.get("configuration", {}).get("separator", usual))
            (sz, sy, sx), (cz, cy, cx), fill = shard, chunk, int(metadata["fill_value"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(name, error) from None
        return cls(name, array, metadata, (sz, sy, sx), (cz, cy, cx), fill, prefix, separator)

    def key(self, place: Triple) -> str:
        """Path of a shard below the case (Zarr v3, "chunk key encoding")."""
        return f"{self.name}/{self.separator.join([*self.prefix, *map(str, place)])}"

    def places(self) -> Iterator[Triple]:
        """All shards."""
        z, y, x = (range(-(-n // s)) for n, s in zip(self.metadata["shape"], self.shard, strict=True))
        return product(z, y, x)

    def suspects(self, volume: tuple[slice, ...], values: NDArray[Any]) -> set[Triple]:
        """Shards that may be missing, judged by the values that were read there.

        Chunks of a CT that are -1024 HU throughout are rare where patches are drawn, so each is looked at; codes are
        often 0 throughout a chunk, so whole shards are.
        """
        grid = self.chunk if self.name == CT else self.shard
        found = blank(values, [s.start for s in volume], grid, self.fill)
        shards = {tuple(k * g // s for k, g, s in zip(place, grid, self.shard, strict=True)) for place in found}
        return {(z, y, x) for z, y, x in shards} - self.empty


def blank(values: NDArray[Any], corner: list[int], grid: Triple, fill: int) -> Iterator[tuple[int, ...]]:
    """Cells of a grid of which `values`, whose first voxel is `corner`, hold nothing but the fill value."""
    axes = []
    for first, size, n in zip(corner, values.shape, grid, strict=True):
        cells = range(first // n, -(-(first + size) // n))
        axes.append([(k, slice(max(k * n - first, 0), min((k + 1) * n - first, size))) for k in cells])
    for cell in product(*axes):
        part = values[tuple(s for _, s in cell)]
        if part[0, 0, 0] == fill and (part == fill).all():
            yield tuple(k for k, _ in cell)


def chunks_of(name: str, metadata: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Shapes of an array's objects, and of what is decoded as a whole.

    Raises
    ------
    CorpusError
        If they are not given, or could fill the memory.
    """
    try:
        shard = [int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
        codec = metadata["codecs"][0]
        sharded = codec["name"] == "sharding_indexed"
        chunk = [int(n) for n in codec["configuration"]["chunk_shape"]] if sharded else shard
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise damaged(name, error) from None
    if not 0 < math.prod(chunk) <= LARGEST_CHUNK:
        raise CorpusError(f"{name} has chunks of {chunk} voxels, too large to read; build it with smaller ones")
    return shard, chunk


def damaged(name: str, error: Exception) -> CorpusError:
    """Error for metadata that tensorstore could complete by itself, but that a corpus has as a whole."""
    return CorpusError(f"{name}/zarr.json is damaged ({error!r}); build the case again")
