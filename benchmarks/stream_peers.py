"""Patches by MONAI, by TorchIO, and out of HDF5 files as the reference system keeps them; what the peers are.

Each peer is two functions: one makes what it reads out of plain arrays (not timed), one yields numbers of patches that
are ready as tensors, for ever. Whatever a peer does in rounds (a volume at a time, a queue at a time) is one yield.
Only reading and cropping are done; no augmentation. The CT is shifted and scaled as each peer does it.
"""

import random
from itertools import repeat
from typing import NamedTuple

import numpy as np
from stream_nnunet import nnunet_batches, nnunet_dataset, nnunet_files, nnunet_open
from stream_volumes import AIR, BATCH, SPACING, arrays, padded

CROPS = 4
"""Patches a volume, where a volume is read whole."""
WINDOW = (-175, 250)
NNUNET = "nnU-Net v2 dataset class, as shipped"


class Peer(NamedTuple):
    """What makes its files, what reads them, the modules it needs, what a patch holds, and which files hold voxels."""

    prepare: object
    batches: object
    needs: tuple[str, ...]
    carries: str
    voxels: str = "*"


def window(ct):
    low, high = WINDOW
    return np.clip((ct.astype(np.float32) - low) / (high - low), 0, 1)


# MONAI ----------------------------------------------------------------------------------------------------------


def npy_files(volumes, folder, patch):
    """CT and one label map, as .npy."""
    for name, ct, _, label, _ in arrays(volumes):
        np.save(folder / f"{name}_image.npy", padded(ct, patch, AIR))
        np.save(folder / f"{name}_label.npy", padded(label, patch, 0))


def persistent_files(volumes, folder, patch):
    """The files of the cache are made by reading every case once; what they are made from is kept elsewhere."""
    sources = folder.parent / f"{folder.name}-sources"
    sources.mkdir(exist_ok=True)
    npy_files(volumes, sources, patch)
    batches = persistent(volumes, folder, patch)
    for _ in volumes.iterdir():
        next(batches)


def monai_crops(patch, keys=("image", "label")):
    """As the reference system crops: two patches around labelled voxels for one elsewhere."""
    from monai.transforms import RandCropByPosNegLabeld

    return RandCropByPosNegLabeld(
        keys, label_key="label", spatial_size=(patch,) * 3, pos=2, neg=1, num_samples=CROPS, image_key="image"
    )


def monai_transforms(patch):
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged

    keys = ("image", "label")
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys, channel_dim="no_channel"),
            ScaleIntensityRanged("image", *WINDOW, 0, 1, clip=True),
            monai_crops(patch),
        ]
    )


def monai_items(sources):
    return [
        {"image": str(path), "label": str(path).replace("_image", "_label")}
        for path in sorted(sources.glob("*_image*"))
    ]


def monai_batches(dataset):
    from monai.data import DataLoader

    loader = DataLoader(dataset, batch_size=1, shuffle=True, num_workers=0)
    for _ in repeat(None):
        for batch in loader:
            yield len(batch["image"])


def persistent(_, folder, patch):
    from monai.data import PersistentDataset

    items = monai_items(folder.parent / f"{folder.name}-sources")
    yield from monai_batches(PersistentDataset(items, monai_transforms(patch), cache_dir=folder))


def cached(_, folder, patch):
    from monai.data import CacheDataset

    dataset = CacheDataset(monai_items(folder), monai_transforms(patch), progress=False, num_workers=1)
    yield from monai_batches(dataset)


# TorchIO --------------------------------------------------------------------------------------------------------


def nifti_files(volumes, folder, patch, suffix=".nii"):
    import nibabel

    affine = np.diag([SPACING] * 3 + [1.0])
    for name, ct, _, label, _ in arrays(volumes):
        for kind, array in (("image", padded(ct, patch, AIR)), ("label", padded(label, patch, 0))):
            nibabel.save(nibabel.Nifti1Image(array.T, affine), folder / f"{name}_{kind}{suffix}")


def torchio_batches(folder, sampler):
    """One yield is one filling of the queue: every volume once."""
    import torchio

    subjects = [
        torchio.Subject(image=torchio.ScalarImage(item["image"]), label=torchio.LabelMap(item["label"]))
        for item in monai_items(folder)
    ]
    queue = torchio.Queue(torchio.SubjectsDataset(subjects), CROPS * len(subjects), CROPS, sampler)
    loader = torchio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)
    for _ in repeat(None):
        yield sum(len(batch["image"][torchio.DATA]) for batch in loader)


def torchio_uniform(_, folder, patch):
    import torchio

    return torchio_batches(folder, torchio.UniformSampler(patch))


def torchio_label(_, folder, patch):
    import torchio

    return torchio_batches(folder, torchio.LabelSampler(patch, "label", {0: 1, 1: 2}))


# HDF5 post-labels -------------------------------------------------------------------------------------------------


def hdf5_files(volumes, folder, patch):
    """CT and label as .nii.gz; `post_label` uint8 (1, 32, x, y, z), gzip level 9."""
    import h5py

    nifti_files(volumes, folder, patch, ".nii.gz")
    for name, _, codes, _, known in arrays(volumes):
        voxels = padded(codes, patch, 0).T
        masks = np.stack([np.isin(voxels, wanted) for wanted in known["masks"]])[None].astype(np.uint8)
        with h5py.File(folder / f"{name}_post.h5", "w") as file:
            file.create_dataset("post_label", data=masks, compression="gzip", compression_opts=9)


def hdf5(_, folder, patch):
    """Whole volumes are read, then cropped; without the resampling that the reference system does at every reading."""
    import h5py
    import nibabel
    import torch
    from monai.data import list_data_collate

    crop = monai_crops(patch, ("image", "label", "post_label"))
    items = monai_items(folder)
    for _ in repeat(None):
        item = random.choice(items)
        with h5py.File(item["image"].replace("_image.nii.gz", "_post.h5")) as file:
            data = {"post_label": torch.from_numpy(file["post_label"][0])}
        image, label = (np.asarray(nibabel.load(item[k]).dataobj)[None] for k in ("image", "label"))
        data |= {"image": torch.from_numpy(window(image)), "label": torch.from_numpy(np.ascontiguousarray(label))}
        yield len(list_data_collate(crop(data))["image"])


PEERS = {
    NNUNET: Peer(nnunet_files, nnunet_dataset, ("nnunetv2",), "one label", "*.b2nd"),
    "nnU-Net v2 dataset class, files kept open": Peer(nnunet_files, nnunet_open, ("nnunetv2",), "one label", "*.b2nd"),
    "nnU-Net v2 data loader, as shipped": Peer(nnunet_files, nnunet_batches, ("nnunetv2",), "one label", "*.b2nd"),
    "MONAI PersistentDataset": Peer(persistent_files, persistent, ("monai",), "one label"),
    "MONAI CacheDataset": Peer(npy_files, cached, ("monai",), "one label"),
    "TorchIO Queue, UniformSampler": Peer(nifti_files, torchio_uniform, ("torchio",), "one label"),
    "TorchIO Queue, LabelSampler": Peer(nifti_files, torchio_label, ("torchio",), "one label"),
    "HDF5 post-labels": Peer(hdf5_files, hdf5, ("monai", "h5py", "nibabel"), "32 masks"),
}
