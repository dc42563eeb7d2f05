"""The Dask graph that joins ingest, harmonize and corpus; resumable, case by case."""

from atlas.build.run import BuildSummary, build

__all__ = ["BuildSummary", "build"]
