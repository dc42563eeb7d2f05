"""atlas: many partially labelled abdominal CT datasets, one corpus, one model.

>>> import atlas
>>> corpus = atlas.open("corpus.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError

if TYPE_CHECKING:
    from atlas.corpus import Case, Corpus
    from atlas.corpus import open_corpus as open  # noqa: A004
    from atlas.stream import PatchDataset, stream

__version__ = "0.1.0"
__all__ = ["AtlasError", "Case", "Corpus", "PatchDataset", "__version__", "open", "stream"]

_LAZY = {
    "open": ("atlas.corpus", "open_corpus"),
    "Corpus": ("atlas.corpus", "Corpus"),
    "Case": ("atlas.corpus", "Case"),
    "PatchDataset": ("atlas.stream", "PatchDataset"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load what is asked for only then, so that `import atlas` stays light."""
    from importlib import import_module

    if name == "stream":  # a package that can be called
        return import_module("atlas.stream")
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
