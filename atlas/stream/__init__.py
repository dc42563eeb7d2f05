"""Patches out of the corpus: `atlas.stream(corpus, ...)`, `atlas.PatchDataset(corpus, ...)`."""

import sys
from types import ModuleType
from typing import Any

from atlas.errors import AtlasError

try:
    import numba as _numba  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise AtlasError(f"streaming needs {error.name}: pip install 'atlas-corpus[train]'") from None

from atlas.stream.augment import Augmentation, Chance
from atlas.stream.batch import Batch, PackedBatch
from atlas.stream.dataset import PatchDataset
from atlas.stream.loader import Stream, stream
from atlas.stream.sampling import Sampling
from atlas.stream.windows import sliding_windows

__all__ = [
    "Augmentation",
    "Batch",
    "Chance",
    "PackedBatch",
    "PatchDataset",
    "Sampling",
    "Stream",
    "sliding_windows",
    "stream",
]


class _Streaming(ModuleType):
    """`atlas.stream` is a package and, as importing it binds that name, also the function of that name."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Stream:  # noqa: ANN401
        return stream(*arguments, **keywords)


_Streaming.__call__.__doc__ = stream.__doc__
sys.modules[__name__].__class__ = _Streaming
