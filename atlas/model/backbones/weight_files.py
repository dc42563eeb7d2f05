"""Named tensors out of a file that may be hostile: nothing is unpickled, sizes are looked at first."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from atlas.errors import AtlasError, CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 65_536
NESTED = ("net", "state_dict", "model", "network_weights")
"""Entries below which trainings of others keep their weights."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file of weights, by their names, on the CPU.

    Parameters
    ----------
    path
        .safetensors, or a zip file of `torch.save` (1.6 or later) with a state dict, or with one below one of the
        usual names. What else it holds (of an optimiser, say) is not read from the disk.

    Returns
    -------
    dict
        Tensors as they are stored; those of a torch file stay on the disk until they are used.

    Raises
    ------
    CheckpointError
        If the file is missing, too large, damaged, or holds anything but tensors and plain values. Names the file.
    """
    _check_size(path)
    reader = _safetensors if path.suffix == ".safetensors" else _torch_file
    try:
        return reader(path)
    except Exception as error:
        # readers of hostile bytes raise whatever they like
        raise _named(path, error) from error


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for weights, at most {MAX_BYTES}")


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a zip file of torch; `weights_only` keeps code from running since torch 2.6 (CVE-2025-32434)."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            "not a zip file as torch writes since 1.6, and a bare pickle is never loaded; save the weights again as "
            ".safetensors"
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
        raise CheckpointError(f"{len(members)} members unpack to more than weights can need")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError("compressed, which torch never writes; save the weights again")
    return _state(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _state(value: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    for name in NESTED:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
            break
    if not isinstance(value, dict):
        raise CheckpointError(f"holds a {type(value).__name__}, expected tensors by name")
    found = {str(name): tensor.detach() for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
    odd = [n for n, tensor in found.items() if tensor.layout != torch.strided or tensor.device.type != "cpu"]
    if odd or not found:
        raise CheckpointError(
            f"{odd[0]} is not a plain tensor"
            if odd
            else f"holds no tensors by name, neither at its top nor below {', '.join(NESTED)}"
        )
    return found


def _named(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, AtlasError):
        return CheckpointError(f"{path}: {error}")
    reason = (str(error).splitlines() or [""])[0][:200]
    return CheckpointError(
        f"{path}: cannot be read as weights ({type(error).__name__}: {reason}); if the file is sound, it holds more "
        "than tensors and plain values, which is never loaded: save the weights alone, best as .safetensors"
    )
