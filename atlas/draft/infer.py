"""Paths of a folder -> the layout of a dataset. Pure: whether a file is a CT is asked of a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atlas.draft.case_folders import folders, masks
from atlas.draft.pairs import pairs
from atlas.draft.roles import ANY_CASE, merged, plain
from atlas.errors import ScanError
from atlas.spec.files import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.draft.roles import IsCt

Kind = Literal["pairs", "folders", "masks"]
KINDS = {"pairs": pairs, "folders": folders, "masks": masks}


def infer(paths: Iterable[str], kind: Kind, is_ct: IsCt) -> Layout:
    """Path patterns of a dataset.

    Parameters
    ----------
    paths
        Volumes, below the dataset's folder, parts joined by /.
    kind
        pairs: a CT and label volumes, told apart by folder, prefix or suffix. folders: a folder a case with a CT and
        label volumes. masks: a folder a case with a CT and a mask for each structure, there or in a sub-folder.
    is_ct
        Whether a file is a CT; asked of a few files of each role. None: it cannot be read.

    Raises
    ------
    ScanError
        If the paths do not show the cases, or what they show contradicts itself.
    """
    usable = sorted(path for path in paths if plain(path))
    if len(usable) < 2:  # noqa: PLR2004 - a CT and its labels
        raise ScanError(f"{len(usable)} volumes are too few; a case has a CT and labels")
    return KINDS[kind](usable, is_ct).layout()


def infer_study(contents: Iterable[tuple[str, str]]) -> Layout:
    """Path pattern of folders that hold a DICOM study each.

    Parameters
    ----------
    contents
        For each DICOM file its path below the dataset's folder, and its modality.

    Raises
    ------
    ScanError
        If no folders hold both a CT and labels.
    """
    found: dict[int, dict[tuple[str, ...], set[str]]] = {}
    for path, modality in contents:
        parts = tuple(path.split("/")[:-1])
        if plain(path):
            for depth in range(len(parts)):
                found.setdefault(depth, {}).setdefault(parts[: depth + 1], set()).add(modality)
    whole = {
        depth: [parts for parts, kinds in groups.items() if "CT" in kinds and kinds & {"SEG", "RTSTRUCT"}]
        for depth, groups in found.items()
    }
    # of several depths the uppermost, which is the patient's; but with one case its own folder, not one above
    most = max((len(groups) for groups in whole.values()), default=0)
    depths = [depth for depth, groups in whole.items() if len(groups) == most]
    best = (min(depths) if most > 1 else max(depths)) if depths else None
    if best is None or not whole[best]:
        kinds = sorted({kind for groups in found.values() for has in groups.values() for kind in has})
        raise ScanError(
            f"no folder holds both a CT series and a DICOM-SEG or RTSTRUCT object (found {', '.join(kinds) or 'none'})"
        )
    above = {"".join(f"{part}/" for part in parts[:-1]) for parts in whole[best]}
    places = sorted({merged(above) or place for place in above})
    return Layout(case=ANY_CASE, study=tuple(f"{place}{{case}}/" for place in places))
