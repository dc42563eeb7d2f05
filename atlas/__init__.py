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

__version__ = "0.1.0"
__all__ = ["AtlasError", "Case", "Corpus", "__version__", "open"]

_LAZY = {"open": "open_corpus", "Corpus": "Corpus", "Case": "Case"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load what is asked for only then, so that `import atlas` stays light."""
    if name in _LAZY:
        import atlas.corpus

        return getattr(atlas.corpus, _LAZY[name])
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
