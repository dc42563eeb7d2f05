"""Patches by nnU-Net v2: its preprocessor's files, its dataset class, its data loader; no augmentation."""

import random
from itertools import count

import numpy as np
from stream_volumes import BATCH, SPACING, arrays


def nnunet_files(volumes, folder, patch):
    """By its own preprocessor, from a plan that changes no voxel: normalize, sample the foreground, save."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    plans, dataset = nnunet_plans(volumes, patch)
    configuration = plans.get_configuration("3d_fullres")
    preprocessor = DefaultPreprocessor(verbose=False)
    for name, ct, _, label, _ in arrays(volumes):
        given = ct[None], label[None].astype(np.int16), {"spacing": [SPACING] * 3}
        data, seg, properties = preprocessor.run_case_npy(*given, plans, configuration, dataset)
        # from here on as in DefaultPreprocessor.run_case_save, which reads files first
        data, seg = data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
        (blocks, chunks), (blocks_seg, chunks_seg) = (
            comp_blosc2_params(a.shape, tuple(configuration.patch_size), a.itemsize) for a in (data, seg)
        )
        shapes = {"chunks": chunks, "blocks": blocks, "chunks_seg": chunks_seg, "blocks_seg": blocks_seg}
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / name), **shapes)


def nnunet_plans(volumes, patch):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    foreground, labels = [], 0
    for _, ct, _, label, known in arrays(volumes):
        foreground.append(ct[label > 0][::97])
        labels = known["labels"]
    hu = np.concatenate(foreground)
    intensities = {"mean": float(hu.mean()), "std": float(hu.std())}
    intensities |= {f"percentile_{n}": float(np.percentile(hu, q)) for n, q in (("00_5", 0.5), ("99_5", 99.5))}
    resampling = {"order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [patch] * 3,
        "spacing": [SPACING] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, **resampling},
        "architecture": {},
    }
    plans = {
        "dataset_name": "benchmark",
        "plans_name": "benchmark",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"3d_fullres": configuration},
    }
    numbered = {"background": 0, **{f"label_{n}": n for n in range(1, labels + 1)}}
    return PlansManager(plans), {"channel_names": {"0": "CT"}, "labels": numbered, "file_ending": ".nii.gz"}


def nnunet_loader(volumes, folder, patch, *, keep_open=False):
    """Its data loader over its dataset class; `keep_open`: files are opened, and properties unpickled, once."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    class KeptOpen(nnUNetDatasetBlosc2):
        def load_case(self, identifier):
            if identifier not in opened:
                opened[identifier] = super().load_case(identifier)
            return opened[identifier]

    opened = {}
    plans, description = nnunet_plans(volumes, patch)
    dataset = (KeptOpen if keep_open else nnUNetDatasetBlosc2)(str(folder))
    size = (patch,) * 3
    return nnUNetDataLoader(dataset, BATCH, size, size, plans.get_label_manager(description), 0.33)


def nnunet_batches(volumes, folder, patch):
    """The loader as it is: batches."""
    for batch in nnunet_loader(volumes, folder, patch):
        yield len(batch["data"])


def nnunet_dataset(volumes, folder, patch, *, keep_open=False):
    """The dataset class with the loader's choice of a box and its crop, as in generate_train_batch; no batches."""
    import torch
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

    loader = nnunet_loader(volumes, folder, patch, keep_open=keep_open)
    dataset = loader._data  # noqa: SLF001
    for row in count():
        data, seg, _, properties = dataset.load_case(random.choice(dataset.identifiers))
        low, high = loader.get_bbox(data.shape[1:], row % 3 == 2, properties["class_locations"])
        box = [[start, stop] for start, stop in zip(low, high, strict=True)]
        torch.from_numpy(crop_and_pad_nd(data, box, 0)).float()
        torch.from_numpy(crop_and_pad_nd(seg, box, -1, cast_cropped_to=np.int16)).to(torch.int16)
        yield 1


def nnunet_open(volumes, folder, patch):
    return nnunet_dataset(volumes, folder, patch, keep_open=True)
