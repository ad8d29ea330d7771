"""What MONAI's engines lack for denoising: results as files, metrics beside the noisy image, pictures."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from medkit.data.keys import (
    AFFINE,
    CASE,
    I_SLICE,
    IMAGE,
    LABEL,
    MODALITY,
    PATH,
    PRED,
    SERIES_UID,
    SIGMA,
    SPACE_CODE,
    WINDOW,
)
from medkit.denoise.figures import draw_denoised
from medkit.denoise.metrics import HounsfieldBias, HounsfieldRMSE
from medkit.denoise.result_files import check_writable, result_path, write_result
from medkit.workflow import write_metrics

logger = logging.getLogger(__name__)

NOISY = "noisy"
SOFT_TISSUE = (-160.0, 240.0)  # HU from black to white in pictures
Baseline = Callable[..., Tensor]


class SaveDenoised:
    """Write what an evaluator denoises: a file of the kind that came in, ``<case>.png``, and the metrics of all cases.

    A handler for an evaluator with decollated batches of :class:`LoadNoisyd`: per case the batch holds ``case``,
    ``path``, ``window``, ``affine``, ``space_code``, ``modality`` and ``image``, noisy, and ``label`` where there is a
    clean image; the output holds ``pred``; all in units of the window. ``metrics.json`` and ``metrics.csv`` appear when
    some case has a clean image: PSNR in dB and SSIM (mean over slices), the window being the range, of CT also the root
    mean squared error and the bias in HU; for ``noisy``, for each baseline and for the method.

    Args:
        output_dir: folder to write to; made when missing.
        method: name of the method, in lower case.
        baselines: other denoisers by name, called with the noisy image ``(C, *S)`` and ``sigma`` (0: unknown) where
            there is a clean image.
        use_files: write results as files: NIfTI as float32 NIfTI, a picture as PNG or TIFF of the same type, a DICOM
            series as a derived series in a folder, and beside it as NIfTI.
        use_png: write pictures, of the slice with the most signal.
        slice_axis: as for :class:`LoadNoisyd`.

    Raises:
        ValueError: if ``method`` is no name; when the run starts, if a DICOM series would go into a folder that is not
            empty.

    Example:
        >>> SaveDenoised("results", method="mdrn").attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        method: str,
        baselines: Mapping[str, Baseline] | None = None,
        use_files: bool = True,
        use_png: bool = True,
        slice_axis: int = 2,
    ) -> None:
        if method in ("", CASE, NOISY) or "/" in method:
            raise ValueError(f"SaveDenoised: 'method' must be a name other than '{CASE}' and '{NOISY}', got {method!r}")
        self.output_dir = Path(output_dir)
        self.method = method
        self.baselines = dict(baselines or {})
        self.use_files, self.use_png, self.slice_axis = use_files, use_png, slice_axis
        self._cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_batch)
        engine.add_event_handler(Events.COMPLETED, self._save_metrics)

    def _start(self, engine: Engine) -> None:
        self._cases.clear()
        dataset = getattr(engine.state.dataloader, "dataset", None)
        entries = getattr(dataset, "data", ()) if self.use_files else ()
        for entry in entries:
            if isinstance(entry, Mapping) and PATH in entry:
                check_writable(result_path(self.output_dir, str(entry[CASE]), self.method, Path(entry[PATH])))

    def _save_batch(self, engine: Engine) -> None:
        for sample, output in zip(engine.state.batch, engine.state.output, strict=True):
            self._save_case({**sample, PRED: output[PRED]})

    def _save_case(self, sample: Mapping[str, Any]) -> None:
        case = str(sample[CASE])
        if I_SLICE in sample:
            case += f"_{int(sample[I_SLICE]):03d}"
        images = {self.method: _plain(sample[PRED])}
        noisy = _plain(sample[IMAGE])[: len(images[self.method])]
        clean = _plain(sample[LABEL])[: len(noisy)] if LABEL in sample else None
        low, high = (float(x) for x in sample[WINDOW])
        notes: dict[str, str] = {}
        if clean is not None:
            sigma = float(sample.get(SIGMA, 0.0))
            images = {**{name: denoise(noisy, sigma=sigma) for name, denoise in self.baselines.items()}, **images}
            scores = {
                name: image_metrics(image, clean, high - low if sample.get(MODALITY) == "CT" else None)
                for name, image in {NOISY: noisy, **images}.items()
            }
            self._cases.append({CASE: case, **scores})
            notes = {name: f"PSNR {one['psnr']:.2f} dB, SSIM {one['ssim']:.3f}" for name, one in scores.items()}
        affine = np.asarray(sample.get(AFFINE, np.eye(4)), dtype=np.float64)
        if self.use_files:
            source = Path(str(sample[PATH]))
            write_result(
                result_path(self.output_dir, case, self.method, source),
                images[self.method] * (high - low) + low,
                source,
                affine,
                int(sample.get(SPACE_CODE, 0)),
                sample.get(SERIES_UID),
                self.method,
                self.slice_axis,
            )
        if self.use_png:
            draw_case(self.output_dir / f"{case}.png", noisy, images, clean, sample, notes, case)

    def _save_metrics(self) -> None:
        cases = _gathered(self._cases)
        if cases and idist.get_rank() == 0:
            for name, means in write_metrics(self.output_dir, cases).items():
                values = [f"{metric} {value:.4f}" for metric, value in means.items() if value is not None]
                logger.info("%s: %s", name, ", ".join(values))


class PreviewDenoised:
    """Draw the first case of each validation: ``<run_dir>/previews/epoch_0001.png`` and the newest as ``preview.png``.

    A handler for the validation engine of a training.

    Args:
        run_dir: folder of the run.
        use_reference: whether ``label`` is a clean image.

    Example:
        >>> PreviewDenoised("runs/first").attach(evaluator)
    """

    def __init__(self, run_dir: str | os.PathLike[str], use_reference: bool = True) -> None:
        self.run_dir = Path(run_dir)
        self.use_reference = use_reference

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        # MONAI's evaluator counts iterations from 1 in each validation, and its epoch is the trainer's.
        if engine.state.iteration != 1 or idist.get_rank() != 0:
            return
        sample, pred = engine.state.batch[0], _plain(engine.state.output[0][PRED])
        noisy = _plain(sample[IMAGE])[: len(pred)]
        clean = _plain(sample[LABEL])[: len(pred)] if self.use_reference else None
        title = f"{sample.get(CASE, '')}, epoch {engine.state.epoch}"
        for name in (f"previews/epoch_{engine.state.epoch:04d}.png", "preview.png"):
            draw_case(self.run_dir / name, noisy, {"denoised": pred}, clean, sample, {}, title)


def draw_case(
    path: Path,
    noisy: Tensor,
    images: Mapping[str, Tensor],
    clean: Tensor | None,
    sample: Mapping[str, Any],
    notes: Mapping[str, str],
    title: str,
) -> None:
    """Draw the slice of a case ``(C, H, W[, S])`` with the most signal; see :func:`draw_denoised`."""
    i_slice = 0 if noisy.ndim == 3 else int((noisy if clean is None else clean).square().sum((0, 1, 2)).argmax())

    def cut(image: Tensor) -> Tensor:
        flat = image if image.ndim == 3 else image[..., i_slice]
        return flat[0] if len(flat) == 1 else flat

    limits = None
    if sample.get(MODALITY) == "CT":
        low, high = (float(x) for x in sample[WINDOW])
        limits = ((SOFT_TISSUE[0] - low) / (high - low), (SOFT_TISSUE[1] - low) / (high - low))
    draw_denoised(
        path,
        cut(noisy),
        {name: cut(image) for name, image in images.items()},
        None if clean is None else cut(clean),
        notes,
        title,
        np.asarray(sample.get(AFFINE, np.eye(4)), dtype=np.float64),
        limits,
    )


def image_metrics(image: Tensor, clean: Tensor, hu_per_unit: float | None = None) -> dict[str, float]:
    """Compare an image with the clean one, 0 to 1 being the range.

    Args:
        image: ``(C, H, W[, S])``.
        clean: same shape.
        hu_per_unit: HU for a difference of 1; ``None``: not CT.

    Returns:
        ``psnr`` in dB, ``ssim`` (mean over slices; NaN where a side is below 7 pixels), of CT ``rmse_hu`` and
        ``bias_hu``.
    """
    one, truth = (x.float().numpy() if x.ndim == 4 else x.float().numpy()[..., None] for x in (image, clean))
    fits = min(truth.shape[1:3]) >= 7
    ssim = [
        structural_similarity(truth[..., i], one[..., i], data_range=1.0, channel_axis=0) if fits else float("nan")
        for i in range(truth.shape[-1])
    ]
    psnr = math.inf if (one == truth).all() else float(peak_signal_noise_ratio(truth, one, data_range=1.0))
    metrics = {"psnr": psnr, "ssim": float(np.mean(ssim))}
    if hu_per_unit is not None:
        metrics["rmse_hu"] = float(torch.as_tensor(HounsfieldRMSE(hu_per_unit)(image[None], clean[None])))
        metrics["bias_hu"] = float(torch.as_tensor(HounsfieldBias(hu_per_unit)(image[None], clean[None])))
    return metrics


def _plain(image: Any) -> Tensor:
    """Return a float32 tensor on the CPU, without MONAI's metadata."""
    return torch.as_tensor(image).detach().float().cpu().as_subclass(Tensor)


def _gathered(rows: list[Any]) -> list[Any]:
    """Return what all processes have."""
    parts = [rows]
    if idist.get_world_size() > 1:
        parts = [[] for _ in range(idist.get_world_size())]
        torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
