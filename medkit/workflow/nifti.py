"""Volumes as NIfTI files."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.workflow.atomic import atomic_path


def write_nifti(path: str | os.PathLike[str], image: Tensor, affine: np.ndarray, space_code: int = 1) -> None:
    """Write a volume as float32 NIfTI, atomically; labels, which are integers, as they are.

    Args:
        path: file to write, ``.nii`` or ``.nii.gz``.
        image: real, ``(H, W)`` or ``(H, W, S)``; uint8, int16 and int32 keep their type.
        affine: ``(4, 4)``, voxel indices to RAS mm.
        space_code: NIfTI's code of the space that ``affine`` leads to, 1 scanner to 5 another template; 0: the
            orientation is unknown, and of ``affine`` only the voxel spacing is written.

    Raises:
        ValueError: if the image is complex or has another number of axes, or there is no such code.

    Example:
        >>> write_nifti("a.nii.gz", torch.zeros(4, 4, 2), np.eye(4))
    """
    import nibabel
    from nibabel.affines import voxel_sizes

    if image.is_complex() or image.ndim not in (2, 3):
        raise ValueError(
            f"write_nifti: 'image' must be real (H, W) or (H, W, S), got {image.dtype} {tuple(image.shape)}"
        )
    if space_code not in range(6):
        raise ValueError(f"write_nifti: 'space_code' must be 0 to 5, got {space_code}")
    kept = image.dtype in (torch.uint8, torch.int16, torch.int32)
    array = image.detach().cpu().to(image.dtype if kept else torch.float32).numpy()
    file = nibabel.Nifti1Image(array if array.ndim == 3 else array[..., None], None)
    if space_code:
        file.set_qform(affine, code=space_code)
        file.set_sform(affine, code=space_code)
    else:
        file.header.set_zooms(voxel_sizes(affine))
    file.header.set_xyzt_units("mm")
    with atomic_path(Path(path)) as temporary:
        nibabel.save(file, temporary)
