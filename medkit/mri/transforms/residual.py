"""How far a reconstruction is from what was measured, on the samples that were measured."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from medkit.data import keys as names
from medkit.mri.channels import channels_to_complex, check_target
from medkit.mri.coils import root_sum_of_squares
from medkit.mri.physics import sense_forward
from medkit.mri.transforms.layout import plain, slices_first


class DataConsistencyResiduald(MapTransform):
    r"""Measure a reconstruction anew, and compare with what was measured: :math:`\|M F S x - y\| / \|y\|`.

    Reads ``pred``, whose first two channels are Re and Im of the result / ``scale``, before it is unpacked; ``scale``,
    ``measured``, complex ``(coil, H, W[, S])``, and ``mask``; ``sens_maps``, without which there is one uniform coil;
    and ``zero_filled`` where it is there. Writes ``residual``: a dictionary with a float for ``pred`` and for
    ``zero_filled``, of the whole volume: 0 where the samples are kept, 1 for an empty image. Not invertible.

    A small residual does not say that the image is right, as the samples that were not measured are free; a large one
    says that it contradicts the measurement. Noise that was taken out of the samples counts too.

    Args:
        keys: the key of the result: one.
        target: ``"rss"``: ``pred`` is an image times the root sum of squares of the sensitivities, as
            ``PackedReconstructor(target="rss")`` gives it, and is measured as such; ``"sense"``: the image alone.

    Raises:
        ValueError: if ``keys`` are several or ``target`` is unknown; on a call, if result, k-space, mask and maps do
            not fit together.

    Example:
        >>> sample = {"pred": torch.zeros(2, 4, 4), "scale": torch.tensor(1.0), "mask": torch.ones(1, 1, 4)}
        >>> DataConsistencyResiduald()({**sample, "measured": torch.ones(1, 4, 4) + 0j})["residual"]
        {'pred': 1.0}
    """

    def __init__(self, keys: KeysCollection = names.PRED, target: str = "sense") -> None:
        super().__init__(keys)
        check_target("DataConsistencyResiduald", target)
        self.is_rss = target == "rss"
        if len(self.keys) != 1:
            raise ValueError(f"DataConsistencyResiduald: 'keys' must be one key, got {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``residual``; see the class."""
        d = dict(data)
        measured = plain(d[names.MEASURED])
        images = {names.ZERO_FILLED: plain(d[names.ZERO_FILLED])} if names.ZERO_FILLED in d else {}
        for key in self.key_iterator(d):
            pred = plain(d[key])[:2].float().to(measured.device)
            images[names.PRED] = channels_to_complex(pred, 0) * plain(d[names.SCALE]).to(measured.device)
        mask = slices_first(plain(d[names.MASK]).to(measured.device))
        maps = slices_first(plain(d[names.SENS_MAPS]).to(measured.device)) if names.SENS_MAPS in d else None
        maps_of = dict.fromkeys(images, maps)
        if self.is_rss and maps is not None:
            norm = root_sum_of_squares(maps, keepdim=True)
            maps_of[names.PRED] = maps / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        d[names.RESIDUAL] = {
            name: _residual(slices_first(image.to(measured.device)), slices_first(measured), mask, maps_of[name])
            for name, image in images.items()
        }
        return d


def _residual(image: Tensor, measured: Tensor, mask: Tensor, maps: Tensor | None) -> float:
    if image.shape[0] != measured.shape[0] or image.shape[2:] != measured.shape[2:]:
        raise ValueError(
            f"DataConsistencyResiduald: images must have the slices, rows and columns of 'measured', got "
            f"{(image.shape[0], *image.shape[2:])} and {(measured.shape[0], *measured.shape[2:])}"
        )
    predicted = sense_forward(image, mask, maps)
    samples = measured * mask
    distance, size = (torch.linalg.vector_norm(x, dtype=torch.complex128) for x in (predicted - samples, samples))
    return 0.0 if float(distance) == 0 else float(distance / size)
