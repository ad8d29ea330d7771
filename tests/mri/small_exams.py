"""Small images, k-space and the usual chain of transforms, for the tests of transforms."""

import numpy as np
import torch

from medkit.mri import CoilCombined, PackReconstructiond, ScaleByPercentiled, SensitivityMapsd, Undersampled


def magnitude(size=(48, 40), n_slices=None):
    row, column = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    image = 1.0 * (np.hypot(row, column) < 0.8) + 0.5 * (np.hypot(row - 0.2, column) < 0.3)
    image = torch.from_numpy(image.astype(np.float32))[None]
    return image if n_slices is None else torch.stack([image * (1 + i) for i in range(n_slices)], -1)


def random_kspace(*shape, seed=0):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def chain(mask, seed_key=None, **coils):
    return [Undersampled("kspace", mask, seed_key=seed_key), SensitivityMapsd(**coils), CoilCombined(),
            ScaleByPercentiled(), PackReconstructiond()]  # fmt: skip


def broken(value):
    kspace = random_kspace(2, 8, 8)
    kspace[0, 0, 0] = value
    return kspace
