"""One table of numbers out of a file that may be hostile: nothing is unpickled, sizes are checked first."""

from __future__ import annotations

import io
import uuid
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.errors import AtlasError, SpecError
from atlas.model.embeddings import check_shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 64 * 2**20
_MAX_MEMBERS = 64
_SAFETENSORS = {"F16": "float16", "F32": "float32"}


def checked_size(path: Path) -> None:
    """Refuse a file that is missing or larger than 64 MiB."""
    if not path.is_file():
        raise SpecError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"{path}: {path.stat().st_size} bytes are too many for embeddings, at most {MAX_BYTES}")


def read_table(path: Path) -> torch.Tensor:
    """The one table of a file, float32 (K, E).

    Raises
    ------
    SpecError
        If the ending is not known, the file is damaged, or it does not hold just one table of float16 or float32 within
        bounds. Names the file.
    """
    readers: dict[str, Callable[[Path], torch.Tensor]] = {
        ".safetensors": lambda p: read_safetensors(p)[0],
        ".npy": lambda p: _numpy_array(p.read_bytes()),
        ".npz": _npz,
        ".pth": _torch_file,
        ".pt": _torch_file,
    }
    if path.suffix not in readers:
        raise SpecError(f"{path}: embeddings come in {', '.join(readers)}")
    checked_size(path)
    try:
        table = readers[path.suffix](path)
        # before any copy: in a .pth a stride of 0 makes a huge tensor out of one number
        _check_table(tuple(table.shape), str(table.dtype).removeprefix("torch."))
        return table.float().contiguous()
    except Exception as error:
        # readers of hostile bytes raise whatever they like
        raise _named(path, error) from error


def read_safetensors(path: Path) -> tuple[torch.Tensor, dict[str, str]]:
    """The one table of a safetensors file, as it is stored, and the metadata.

    Raises
    ------
    SpecError
        If the file is damaged or does not hold just one table of float16 or float32 within bounds. Names the file.
    """
    try:
        from safetensors import safe_open
    except ImportError:
        raise _needs_safetensors(path) from None
    try:
        with safe_open(path, framework="pt") as file:
            (name,) = _one(list(file.keys()))
            part = file.get_slice(name)
            _check_table(tuple(part.get_shape()), _SAFETENSORS.get(part.get_dtype(), part.get_dtype()))
            return file.get_tensor(name), dict(file.metadata() or {})
    except Exception as error:
        raise _named(path, error) from error


def write_safetensors(path: Path, table: torch.Tensor, metadata: dict[str, str]) -> None:
    """Write one table in one step: a reader sees the old file, the new one or none."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise _needs_safetensors(path) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        beside.write_bytes(save({"vectors": table}, metadata=metadata))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _needs_safetensors(path: Path) -> AtlasError:
    return AtlasError(f"{path} needs safetensors: pip install 'atlas-corpus[train]'")


def _named(path: Path, error: Exception) -> AtlasError:
    if isinstance(error, AtlasError):
        return error if str(path) in str(error) else SpecError(f"{path}: {error}")
    reason = (str(error).splitlines() or [""])[0][:200]
    return SpecError(f"{path}: cannot be read as a table of numbers ({type(error).__name__}: {reason})")


def _one(names: list[str]) -> list[str]:
    if len(names) != 1:
        raise SpecError(f"holds {len(names)} arrays ({', '.join(names[:5])}), expected one")
    return names


def _check_table(shape: tuple[int, ...], dtype: str) -> None:
    if dtype not in {"float16", "float32"}:
        raise SpecError(f"numbers of type {dtype}; embeddings are float16 or float32")
    check_shape(shape)


def _numpy_array(data: bytes) -> torch.Tensor:
    """Read a .npy: the header is checked before anything of the shape that it states is allocated."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise SpecError(f"format {version} of .npy")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise SpecError("holds Python objects, which are never loaded; save float32 numbers")
    _check_table(shape, dtype.name)
    body = data[file.tell() :]
    if len(body) != dtype.itemsize * shape[0] * shape[1]:
        raise SpecError(f"{len(body)} bytes are not an array of shape {shape} and type {dtype.name}")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(np.float32))


def _npz(path: Path) -> torch.Tensor:
    with zipfile.ZipFile(path) as archive:
        (name,) = _one(archive.namelist())
        with archive.open(name) as member:
            data = member.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SpecError(f"{name} unpacks to more than {MAX_BYTES} bytes")
    return _numpy_array(data)


def _torch_file(path: Path) -> torch.Tensor:
    """Read a zip file of torch, never a bare pickle; a tensor of any device comes to the CPU.

    `weights_only` keeps code from running since torch 2.6 only (CVE-2025-32434), the oldest that atlas takes.
    """
    if not zipfile.is_zipfile(path):
        raise SpecError("not a zip file as torch writes since 1.6; save the tensor again, or as .safetensors or .npy")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > MAX_BYTES:
        raise SpecError(f"{len(members)} members unpack to more than embeddings can need")
    value = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise SpecError(f"holds a {type(value).__name__}, expected one tensor with all its numbers")
    return value.detach()
