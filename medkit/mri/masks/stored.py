"""Sampling patterns drawn once and kept, for kinds that take long to draw."""

from __future__ import annotations

import json
import logging
import math
import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medkit.mri.masks.base import SamplingMask
from medkit.workflow import atomic_path, is_shown

logger = logging.getLogger(__name__)

_PLAIN = (bool, int, float, str, tuple, type(None), np.generic, Path)


class MaskBank(SamplingMask):
    """Patterns of another mask, drawn once for each size of k-space; each draw then picks one of them.

    Picking takes microseconds, whatever the mask takes: a Poisson-disc pattern of 320×320 takes tens of milliseconds,
    too much for each sample of a training. The patterns are the first ``n`` that ``mask`` gives after
    ``set_random_state(seed)``; which one is picked hangs on the generator given to ``draw``, as for any mask.

    Give the sizes that are known as ``shapes``: they are drawn at once, before the workers of a ``DataLoader`` start,
    which then share them. Another size is drawn when it first comes, in each worker.

    Args:
        mask: the mask whose patterns are kept.
        n: number of patterns for each size, at least 1.
        seed: of the patterns.
        shapes: sizes to draw at once, each as for ``mask.draw`` but without the axis of a readout: ``(H, W)``, or
            ``(T, H, W)`` for a mask that changes from frame to frame.
        path: ``.npz`` file from which the patterns for ``shapes`` are read; those it lacks are drawn, and written to
            it. A line of JSON in it says of which mask, number and seed they are.
        max_shapes: at most so many sizes are kept, at least as many as ``shapes``; then the one that was not needed for
            longest is forgotten.

    Raises:
        ValueError: if ``mask`` is no sampling mask or itself a bank, a number is out of its range, or the file is no
            bank or one of another mask, number or seed.

    Example:
        >>> bank = MaskBank(PoissonDiscMask(0.01, 8), n=4, shapes=[(64, 64)])
        >>> int(bank.draw((64, 64)).sum())
        512
    """

    def __init__(
        self,
        mask: SamplingMask,
        n: int = 100,
        seed: int = 0,
        shapes: Sequence[Sequence[int]] = (),
        path: str | os.PathLike[str] | None = None,
        max_shapes: int = 16,
    ):
        if not isinstance(mask, SamplingMask) or isinstance(mask, MaskBank):
            raise ValueError(f"MaskBank: 'mask' must be a sampling mask such as PoissonDiscMask(0.01, 8), got {mask!r}")
        if n < 1:
            raise ValueError(f"MaskBank: 'n' must be at least 1, got {n}")
        sizes = [tuple(int(length) for length in shape) for shape in shapes]
        if max_shapes < max(1, len(set(sizes))):
            raise ValueError(
                f"MaskBank: 'max_shapes' must be at least 1 and the number of 'shapes', got {max_shapes} for "
                f"{len(set(sizes))}"
            )
        n_sizes = 2 + mask.is_dynamic
        if path is not None and Path(path).suffix != ".npz":
            raise ValueError(f"MaskBank: 'path' must end in .npz, got {path}")
        for size in sizes:
            if len(size) != n_sizes or min(size) < 1:
                raise ValueError(f"MaskBank: each of 'shapes' must be {n_sizes} positive sizes, got {size}")
        super().__init__(mask.center_fractions, mask.accelerations, mask.spatial_dims, mask.is_complex)
        self.is_dynamic = mask.is_dynamic
        self.source = mask
        self.n = n
        self.seed = seed
        self.max_shapes = max_shapes
        # Bits, as tensors: torch hands tensors to the processes of a DataLoader as shared memory.
        self._kept: OrderedDict[tuple[int, ...], tuple[tuple[int, ...], Tensor]] = OrderedDict()
        stored = {} if path is None or not Path(path).exists() else self._read(Path(path))
        drawn = {size: self._draw_all(size) for size in dict.fromkeys(sizes) if size not in stored}
        if path is not None and drawn:
            self._write(Path(path), {**stored, **drawn})
        for size in sizes:
            self._keep(size, drawn[size] if size in drawn else stored[size])

    def _pattern(self, shape: tuple[Any, ...], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        if shape not in self._kept:
            self._keep(shape, self._draw_all(shape))
        self._kept.move_to_end(shape)
        form, bits = self._kept[shape]
        chosen = bits[rng.randint(self.n)].numpy()
        return np.unpackbits(chosen, count=math.prod(form)).view(bool).reshape(form)

    def _keep(self, size: tuple[int, ...], patterns: np.ndarray) -> None:
        bits = torch.from_numpy(np.packbits(patterns.reshape(self.n, -1), axis=1))
        self._kept[size] = patterns.shape[1:], bits
        if len(self._kept) > self.max_shapes:
            self._kept.popitem(last=False)

    def _draw_all(self, size: tuple[int, ...]) -> np.ndarray:
        """Draw all patterns for a size, bool (n, [T,] 1 or H, W)."""
        rng = np.random.RandomState(self.seed)
        n_frame_axes = int(self.is_dynamic)
        whole_axes = (1,) * (self.spatial_dims - 2)
        shape = (*size[:n_frame_axes], *whole_axes, *size[n_frame_axes:])
        name = type(self.source).__name__
        logger.info("MaskBank: drawing %d patterns %s of %s", self.n, size, name)
        # The bar appears where it takes long alone.
        numbers = tqdm(range(self.n), desc=name, leave=False, delay=1, disable=not is_shown())
        patterns = np.stack([self.source.draw(shape, rng).numpy() for _ in numbers])
        return patterns.reshape(self.n, *patterns.shape[1 : 1 + n_frame_axes], *patterns.shape[-2:])

    def _facts(self) -> str:
        """Say in JSON what the patterns are drawn from."""
        arguments = {name: value for name, value in vars(self.source).items() if isinstance(value, _PLAIN)}
        facts = {"mask": type(self.source).__name__, "arguments": arguments, "n": self.n, "seed": self.seed}
        return json.dumps(facts, sort_keys=True, default=str)

    def _read(self, path: Path) -> dict[tuple[int, ...], np.ndarray]:
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("no archive")
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"MaskBank: 'path' must be an .npz file of patterns, {path} cannot be read") from error
        if "facts" not in arrays:
            raise ValueError(f"MaskBank: 'path' must be a file that a MaskBank wrote, {path} says not of what it is")
        facts = str(arrays.pop("facts"))
        if facts != self._facts():
            raise ValueError(
                f"MaskBank: {path} holds patterns of {facts}, wanted are {self._facts()}; give another path, or delete "
                "it to have them drawn"
            )
        patterns = {}
        for name, array in arrays.items():
            size = tuple(int(length) if length.isdecimal() else 0 for length in name.split("x"))
            forms = [(*size[:-2], rows, size[-1]) for rows in (1, size[-2])] if len(size) == 2 + self.is_dynamic else []
            if array.dtype != bool or array.shape not in [(self.n, *form) for form in forms]:
                raise ValueError(
                    f"MaskBank: {path} must hold {self.n} bool patterns for k-space {name}, got {array.dtype} "
                    f"{array.shape}; delete it to have them drawn"
                )
            patterns[size] = array
        return patterns

    def _write(self, path: Path, patterns: dict[tuple[int, ...], np.ndarray]) -> None:
        contents: dict[str, Any] = {"x".join(map(str, size)): array for size, array in patterns.items()}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, facts=np.array(self._facts()), **contents)
        logger.info("MaskBank: wrote %s", path)
