"""Every error a user of atlas can meet.

All derive from `AtlasError`. A message names the file or the case, says what is wrong, and says what to do
about it; where the valid choices are known it lists them.
"""


class AtlasError(Exception):
    """Base of all errors raised on purpose by atlas."""


class SpecError(AtlasError, ValueError):
    """A YAML file (taxonomy, manifest, label map or recipe) says something it may not say."""


class FetchError(AtlasError, OSError):
    """A file of a dataset cannot be fetched, or is not what its publisher served."""


class ScanError(AtlasError, ValueError):
    """A case cannot be read or is not what its manifest promises; the build quarantines it."""


class LabelError(ScanError):
    """A label volume holds values that its label map does not explain."""


class GeometryError(ScanError):
    """The position of a volume in space is missing, contradictory or impossible."""


class CorpusError(AtlasError):
    """A corpus is missing, incomplete, damaged or of another format."""


class UnavailableClassError(AtlasError, KeyError):
    """A mask was asked for of a class that nobody annotated in this case."""

    def __str__(self) -> str:
        """Plain message; KeyError would show it in quotes."""
        return str(self.args[0]) if self.args else ""


class BuildError(AtlasError, RuntimeError):
    """A build cannot start or go on."""


class CheckpointError(AtlasError):
    """A training run, or a file of weights, is missing, damaged or of another model."""


class TrainingError(AtlasError, RuntimeError):
    """A training cannot start or go on."""
