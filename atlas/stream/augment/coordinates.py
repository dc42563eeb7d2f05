"""Where each voxel of an augmented patch comes from: rotation, scale and an elastic field in one grid.

With c the centre of the patch, p a voxel of the result, R the rotation, S the magnification and d the elastic
displacement, the voxel comes from ``c + R^T S^-1 (p - c + d(p))``: a deformation that does not fold stays one that
does not, however it is turned and scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.stream.augment.parameters import CONTROL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def rotation_matrix(degrees: Floats) -> Floats:
    """Matrix that turns a column (z, y, x), about x, then y, then z.

    Parameters
    ----------
    degrees
        (3,) angles about z, y and x; positive turns x to y, z to x, y to z.

    Returns
    -------
    float64 (3, 3), in (z, y, x).
    """
    about_z, about_y, about_x = np.radians(degrees).tolist()
    z, y, x = 0, 1, 2
    return _turn(about_z, x, y) @ _turn(about_y, z, x) @ _turn(about_x, y, z)


def _turn(angle: float, source: int, target: int) -> Floats:
    """Turn of axis `source` towards axis `target`."""
    matrix = np.eye(3)
    matrix[[source, target], [source, target]] = np.cos(angle)
    matrix[target, source], matrix[source, target] = np.sin(angle), -np.sin(angle)
    return matrix


def sampling_grid(
    shape: tuple[int, int, int],
    rotation: Floats,
    scale: Floats,
    elastic: NDArray[np.float32],
    device: torch.device,
) -> torch.Tensor:
    """Grid for `torch.nn.functional.grid_sample` with ``align_corners=False``.

    Parameters
    ----------
    shape
        Voxels (z, y, x) of the patch.
    rotation, scale, elastic
        One row of `Parameters`: (3,), (3,), (3, 7, 7, 7).
    device
        Where the grid is made.

    Returns
    -------
    float32 (z, y, x, 3), the last axis in grid_sample's order (x, y, z). -1 and 1 are the outer faces of the
    patch, half a voxel beyond the centres of its first and last voxels.
    """
    to_source = rotation_matrix(rotation).T / scale
    faces = 2 / np.array(shape)[:, None]
    # sums of one-dimensional terms, never a matrix product: those may be computed in fewer bits (TF32, autocast)
    centred = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in shape]
    planes = []
    for row in (to_source * faces)[::-1].tolist():
        z, y, x = (k * axis for k, axis in zip(row, centred, strict=True))
        planes.append(z[:, None, None] + y[:, None] + x)
    grid = torch.stack(planes)
    if elastic.any():
        control = np.einsum("ij,jklm->iklm", to_source * faces, elastic.astype(np.float64))[::-1]
        grid += spline(torch.from_numpy(control.astype(np.float32)).to(device), shape)
    return grid.permute(1, 2, 3, 0)


def spline(control: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Uniform cubic B-spline over a patch.

    Parameters
    ----------
    control
        float32 (c, 7, 7, 7): values at control points, in (z, y, x); four spans of them cover the patch.
    shape
        Voxels (z, y, x).

    Returns
    -------
    float32 (c, z, y, x).
    """
    # the last axis first: what is large is touched last and once
    for axis in (3, 2, 1):
        weights = torch.from_numpy(basis(shape[axis - 1])).to(control.device)
        control = _blend(control, weights, axis)
    return control


def _blend(values: torch.Tensor, weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Mix the control points along an axis; `weights` is (7, n)."""
    along = [1] * values.ndim
    along[axis] = -1
    mixed = values.narrow(axis, 0, 1) * weights[0].view(along)
    for k in range(1, CONTROL):
        mixed.addcmul_(values.narrow(axis, k, 1), weights[k].view(along))
    return mixed


def basis(count: int) -> NDArray[np.float32]:
    """Weight of each control point at each voxel of an axis: float32 (7, count), columns that sum to 1.

    The polynomials are those of Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 18, 1999.
    """
    position = (np.arange(count) + 0.5) / count * (CONTROL - 3)
    first = np.floor(position).astype(np.intp)
    t = position - first
    pieces = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    weights = np.zeros((CONTROL, count), np.float32)
    for k, piece in enumerate(pieces):
        weights[first + k, np.arange(count)] = piece / 6
    return weights
