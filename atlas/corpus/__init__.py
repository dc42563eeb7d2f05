"""The corpus on disk: Zarr v3 arrays and Parquet tables, written case by case and read lazily."""

from atlas.corpus.case import Case
from atlas.corpus.corpus import Corpus, open_corpus

__all__ = ["Case", "Corpus", "open_corpus"]
