"""A batch as MONAI and TorchIO know patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from atlas.errors import AtlasError

if TYPE_CHECKING:
    import numpy as np
    import torchio
    from numpy.typing import NDArray

    from atlas.stream.batch import Batch


def to_monai(batch: Batch) -> list[dict[str, Any]]:
    """MONAI dictionaries, one a patch.

    Each holds `image`, a MetaTensor float32 (1, *P); `label`, a MetaTensor uint8 (C, *P); `available`, bool (C,);
    `classes`, `case_id`, `target`, `origin` and `index`; and `unknown` like `label` where the batch has any. They
    stay on the batch's device and share its memory. The affine maps the patch's own indices, in the order of
    `batch.axes`, to RAS mm.

    Raises
    ------
    AtlasError
        If MONAI is not installed.
    """
    try:
        from monai.data import MetaTensor
    except ImportError as error:
        raise _missing("MONAI dictionaries", "monai") from error
    items = []
    for b in range(len(batch)):
        affine = torch.from_numpy(_affine(batch.affine[b], batch.axes))
        # a dictionary of its own for each: transforms write into them
        tensors = {
            name: MetaTensor(tensor, affine=affine.clone(), meta={"space": "RAS", "filename_or_obj": batch.case_id[b]})
            for name, tensor in _volumes(batch, b).items()
        }
        items.append({**tensors, **_facts(batch, b)})
    return items


def to_torchio(batch: Batch) -> list[torchio.Subject]:
    """TorchIO subjects, one a patch, in host memory.

    Each holds `image`, a ScalarImage (1, x, y, z); `label`, a LabelMap uint8 (C, x, y, z) with one binary mask a
    channel; what else `to_monai` gives; and `unknown`, a LabelMap, where the batch has any.

    Raises
    ------
    AtlasError
        If TorchIO is not installed.
    """
    try:
        import torchio
    except ImportError as error:
        raise _missing("TorchIO subjects", "torchio") from error
    subjects = []
    for b in range(len(batch)):
        images = {}
        for name, tensor in _volumes(batch, b).items():
            kind = torchio.ScalarImage if name == "image" else torchio.LabelMap
            volume = tensor.permute(0, 3, 2, 1) if batch.axes == "zyx" else tensor
            images[name] = kind(tensor=volume.cpu().contiguous(), affine=batch.affine[b])
        subjects.append(torchio.Subject({**images, **_facts(batch, b)}))
    return subjects


def _volumes(batch: Batch, b: int) -> dict[str, torch.Tensor]:
    """Tensors of a patch; masks as uint8, which can be stored and resampled."""
    volumes = {"image": batch.image[b], "label": batch.mask[b].view(torch.uint8)}
    if batch.unknown is not None:
        volumes["unknown"] = batch.unknown[b].view(torch.uint8)
    return volumes


def _facts(batch: Batch, b: int) -> dict[str, Any]:
    return {
        "available": batch.available[b],
        "classes": batch.classes,
        "case_id": batch.case_id[b],
        "target": batch.target[b],
        "origin": tuple(batch.origin[b].tolist()),
        "index": int(batch.index[b]),
    }


def _affine(affine: NDArray[np.float64], axes: str) -> NDArray[np.float64]:
    """From indices in the order of the axes to RAS mm, out of that of (x, y, z)."""
    return affine[:, [2, 1, 0, 3]] if axes == "zyx" else affine.copy()


def _missing(what: str, package: str) -> AtlasError:
    return AtlasError(f"{what} need a package that is not installed: pip install {package}")
