"""A case as it is laid out, and how files get to their places."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A case as laid out.

    Attributes
    ----------
    ct
        The CT volume, or the folder of its DICOM slices.
    labels
        The label volume, or the folder of masks or of PNG images. Of a DICOM study another reading of its labels,
        by its publishers, to compare with.
    made
        Whether its CT is a made one.
    study
        The folder that holds all of it, if it is laid out as one.
    """

    dataset: str
    name: str
    ct: Path
    labels: Path
    made: bool
    study: Path | None = None

    @property
    def case_id(self):
        """As in the corpus."""
        return f"{self.dataset}/{self.name}"


def link(source: Path, target: Path) -> Path:
    """Link a file to where it belongs; of a folder each file, since links to folders are not followed."""
    if source.is_dir():
        for path in source.iterdir():
            link(path, target / path.name)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve())
    return target


def unpack(archive: Path, target: Path) -> Path:
    """Unpack beside the place and rename, so that what is there is whole."""
    if not target.exists():
        part = target.with_name(target.name + ".part")
        remove(part)
        part.mkdir(parents=True)
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(part)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(part, filter="data")
        part.rename(target)
    return target


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
