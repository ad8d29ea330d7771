"""What MONAI's engines lack for reconstruction: NIfTI results, metrics beside the zero-filled image, pictures."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medkit.data.keys import (
    ACCELERATION,
    AFFINE,
    CASE,
    COMMON,
    GUIDE,
    IMAGE,
    LABEL,
    LESIONS,
    PRED,
    RECON_SIZE,
    REFERENCE,
    RESIDUAL,
    SPACE_CODE,
    SUBJECT,
    UNIQUE,
    ZERO_FILLED,
)
from medkit.mri.channels import channels_to_magnitude
from medkit.mri.comparison import save_comparison
from medkit.mri.figures import draw_reconstructions
from medkit.mri.haar_similarity import haarpsi
from medkit.mri.high_frequency import hfen
from medkit.mri.metrics import nmse, psnr, ssim
from medkit.mri.part_figures import draw_multi_contrast
from medkit.mri.regions import REFERENCE_ROW, Region, find_regions, region_metrics, write_regions
from medkit.mri.slicewise import slice_metrics
from medkit.mri.views import View, view_of_region
from medkit.ops import center_crop
from medkit.workflow import write_metrics, write_nifti

logger = logging.getLogger(__name__)

LARGEST_DRAWN = 4  # lesions of a case that get a picture


class SaveReconstructions:
    """Write what an evaluator reconstructs: ``<case>_<method>.nii.gz``, ``<case>.png``, and the metrics of all cases.

    A handler for an evaluator with decollated batches whose postprocessing is ``UnpackReconstructiond``: per case the
    batch holds ``case``, ``affine``, ``space_code`` and ``zero_filled``, complex ``(1, H, W[, S])``, and ``reference``
    where there is one; without ``space_code``, ``affine`` is taken as the scanner's; the output holds ``pred``, the
    magnitude, real, same shape and unit. Where the batch holds ``acceleration``, the log says how much of each case was
    sampled. Each file is written under a temporary name and renamed. ``metrics.json`` and
    ``metrics.csv`` appear when some case has a reference, with PSNR in dB, SSIM and NMSE of the whole volume, for
    ``zero_filled`` and for the method; and when the output has a ``residual``, with that.

    Of at least 5 cases with a reference, ``comparison.json`` has the differences between the method and ``zero_filled``
    with their confidence intervals, see :func:`paired_bootstrap`, and ``metrics.png`` shows both for each case. All
    cases of one ``subject``, where the batch holds it, count as one there.

    Where the batch holds ``lesions``, ``<case>_lesion_<n>.png`` shows each of the four largest, and with a reference
    ``lesions.csv`` says what became of all of them; see :func:`region_metrics`.

    Args:
        output_dir: folder to write to; made when missing.
        method: name of the method, in lower case; ``"zero_filled"`` if the zero-filled image itself is what is written.
        use_nifti: write volumes.
        use_png: write pictures, of the slice with the most signal.
        crop_to_recon: cut volumes, pictures and what is compared to the central ``recon_size``, where a case has it.
        use_error_maps: write ``<case>_<method>_error.nii.gz`` where there is a reference: what was restored less what
            was fully sampled, so that invented signal is positive and erased signal negative; unit of the image.
        use_slice_metrics: also compute :func:`slice_metrics`.
        use_more_metrics: also compute :func:`haarpsi` and :func:`hfen`.

    Raises:
        ValueError: if ``method`` is empty or ``"case"``; in the run, if ``pred`` is no magnitude, or not that of
            ``zero_filled`` under this name.

    Example:
        >>> SaveReconstructions("results", method="clgnet").attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        method: str,
        use_nifti: bool = True,
        use_png: bool = True,
        crop_to_recon: bool = False,
        use_error_maps: bool = False,
        use_slice_metrics: bool = False,
        use_more_metrics: bool = False,
    ) -> None:
        if method in ("", CASE):
            raise ValueError(f"SaveReconstructions: 'method' must be a name, and not {CASE!r}, got {method!r}")
        self.output_dir = Path(output_dir)
        self.method = method
        self.use_nifti = use_nifti
        self.use_png = use_png
        self.crop_to_recon = crop_to_recon
        self.use_error_maps = use_error_maps
        self.use_slice_metrics = use_slice_metrics
        self.use_more_metrics = use_more_metrics
        self._cases: list[dict[str, Any]] = []
        self._subjects: list[str] = []
        self._lesions: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._cases.clear)
        engine.add_event_handler(Events.STARTED, self._subjects.clear)
        engine.add_event_handler(Events.STARTED, self._lesions.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_batch)
        engine.add_event_handler(Events.COMPLETED, self._save_metrics)

    def _save_batch(self, engine: Engine) -> None:
        for sample, output in zip(engine.state.batch, engine.state.output, strict=True):
            results = {key: output[key] for key in (PRED, UNIQUE, COMMON, RESIDUAL) if key in output}
            self._save_case({**sample, **results})

    def _save_case(self, sample: Mapping[str, Any]) -> None:
        case = str(sample[CASE])
        pred = sample[PRED]
        if pred.is_complex() or pred.shape != sample[ZERO_FILLED].shape:
            raise ValueError(
                f"SaveReconstructions: 'pred' must be a magnitude, real {tuple(sample[ZERO_FILLED].shape)}, got "
                f"{pred.dtype} {tuple(pred.shape)}; put UnpackReconstructiond into the evaluator's postprocessing"
            )
        images = {ZERO_FILLED: sample[ZERO_FILLED].abs()[0]}
        if self.method == ZERO_FILLED and not torch.allclose(pred[0].cpu(), images[ZERO_FILLED].cpu(), 1e-3, 1e-8):
            raise ValueError(
                f"SaveReconstructions: {ZERO_FILLED!r} is the name of the zero-filled image, and 'pred' is another; "
                "give the method another name"
            )
        images[self.method] = pred[0]
        if ACCELERATION in sample:
            rate = float(sample[ACCELERATION])
            logger.info(f"{case}: sampled {100 / rate:.0f} % ({rate:.2f}-fold)")
        reference = sample[REFERENCE].abs()[0] if REFERENCE in sample else None
        lesions = sample[LESIONS][0] if LESIONS in sample else None
        affine = np.asarray(sample.get(AFFINE, np.eye(4)), dtype=np.float64).copy()
        code = int(sample.get(SPACE_CODE, 1)) if AFFINE in sample else 0
        if self.crop_to_recon and RECON_SIZE in sample:
            whole, size = pred.shape[1:], [int(n) for n in sample[RECON_SIZE]]
            images = {name: center_crop(image, [*size, *whole[2:]]) for name, image in images.items()}
            reference = None if reference is None else center_crop(reference, [*size, *whole[2:]])
            lesions = None if lesions is None else center_crop(lesions, [*size, *whole[2:]])
            if code:  # otherwise the first voxel lies at 0, as nothing is known of its place
                affine[:3, 3] += affine[:3, :2] @ [n // 2 - m // 2 for n, m in zip(whole, size, strict=False)]
        metrics: dict[str, dict[str, float]] = {}
        if reference is not None:
            for name, image in images.items():
                volume, truth = _slices_first(image), _slices_first(reference)
                metrics[name] = {"psnr": psnr(volume, truth), "ssim": ssim(volume, truth), "nmse": nmse(volume, truth)}
                if self.use_slice_metrics:
                    metrics[name] |= slice_metrics(volume, truth)
                if self.use_more_metrics:
                    metrics[name] |= {"haarpsi": haarpsi(volume, truth), "hfen": hfen(volume, truth)}
        for key, residual in sample.get(RESIDUAL, {}).items():
            metrics.setdefault(self.method if key == PRED else key, {})[RESIDUAL] = residual
        if metrics:
            self._cases.append({CASE: case, **metrics})
            self._subjects.append(str(sample.get(SUBJECT, case)))
        if self.use_nifti:
            path = self.output_dir / f"{case}_{self.method}.nii.gz"
            write_nifti(path, images[self.method], affine, code)
            logger.info(f"{case}: wrote {path}")
        if self.use_error_maps and reference is not None:
            path = self.output_dir / f"{case}_{self.method}_error.nii.gz"
            write_nifti(path, images[self.method] - reference, affine, code)
            logger.info(f"{case}: wrote {path}")
        regions = [] if lesions is None else find_regions(lesions)
        rows = [] if reference is None else region_metrics(regions, images, reference, case)
        self._lesions += rows
        if self.use_png:
            whole = {"images": images, "reference": reference, "affine": affine}
            self._draw_case(sample, whole, metrics)
            self._draw_lesions(sample, whole, regions[:LARGEST_DRAWN], rows)

    def _draw_case(
        self, sample: Mapping[str, Any], whole: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Draw the slice with the most signal; ``whole`` are the arguments of a picture that all of a case share."""
        case, reference = str(sample[CASE]), whole["reference"]
        bright = whole["images"][ZERO_FILLED] if reference is None else reference
        view = View(_brightest(bright), tuple(bright.shape[:2]))
        notes = {name: f"PSNR {m['psnr']:.2f} dB, SSIM {m['ssim']:.4f}" for name, m in metrics.items() if "psnr" in m}
        self._draw(sample, view, **whole, path=self.output_dir / f"{case}.png", notes=notes, title=case)

    def _draw_lesions(
        self,
        sample: Mapping[str, Any],
        whole: Mapping[str, Any],
        regions: Sequence[Region],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Draw a window around each lesion, with its metrics."""
        case, images = str(sample[CASE]), whole["images"]
        size = tuple(images[ZERO_FILLED].shape[:2])
        for region in regions:
            own = {row["method"]: row for row in rows if row["lesion"] == region.number}
            title = f"{case}, lesion {region.number}, label {region.label}"
            if REFERENCE_ROW in own:
                title += f": contrast {own[REFERENCE_ROW]['contrast']:+.3f}"
            self._draw(
                sample,
                view_of_region(region, size),
                **whole,
                path=self.output_dir / f"{case}_lesion_{region.number}.png",
                notes={name: _lesion_note(own[name]) for name in images if name in own},
                title=title,
            )

    def _draw(self, sample: Mapping[str, Any], view: View, **picture: Any) -> None:
        """Draw a view of a case; ``picture`` are arguments of :func:`draw_reconstructions`, but with whole volumes."""
        draw_reconstructions(**_viewed(view, picture))

    def _save_metrics(self) -> None:
        cases, subjects, lesions = (_gathered(rows) for rows in (self._cases, self._subjects, self._lesions))
        if lesions and idist.get_rank() == 0:
            write_regions(self.output_dir, lesions)
        if cases and idist.get_rank() == 0:
            for name, means in write_metrics(self.output_dir, cases).items():
                values = [f"{metric} {value:.4f}" for metric, value in means.items() if value is not None]
                logger.info(f"{name}: {', '.join(values)}")
            save_comparison(self.output_dir, cases, subjects, self.method, self.use_png)


class SaveMultiContrast(SaveReconstructions):
    """Write what an evaluator restores with the help of other contrasts, and a picture of what each contrast told.

    As :class:`SaveReconstructions`, for an evaluator whose postprocessing is ``UnpackMultiContrastd``: the batch also
    holds ``image``, whose channels behind the mask are the reference contrasts, and ``guide``, of which the number of
    channels is read; the output also holds ``unique`` and ``common``. The picture shows the target and the reference
    contrasts, and what unique and common codes added to each.

    Args:
        output_dir: as for :class:`SaveReconstructions`, like the other arguments.
        method: name of the method, in lower case.
        use_nifti: write volumes.
        use_png: write pictures.
        crop_to_recon: cut all of them to the central ``recon_size``, where a case has it.
        use_error_maps: write what was restored less what was fully sampled.
        use_slice_metrics: also compute :func:`slice_metrics`.
        use_more_metrics: also compute :func:`haarpsi` and :func:`hfen`.

    Example:
        >>> SaveMultiContrast("results", method="mc_cdic").attach(evaluator)
    """

    def _draw(self, sample: Mapping[str, Any], view: View, **picture: Any) -> None:
        n_guides = sample[GUIDE].shape[0]
        draw_multi_contrast(
            guide=view.of_channels(sample[IMAGE][3 : 3 + n_guides]),
            unique=view.of_channels(sample[UNIQUE]),
            common=view.of_channels(sample[COMMON]),
            **_viewed(view, picture),
        )


class PreviewReconstructions:
    """Draw the first case of each validation: ``<run_dir>/previews/epoch_0001.png`` and the newest as ``preview.png``.

    A handler for the validation engine of a training; ``image``, ``label`` and ``pred`` are packed channels there, of
    which the first two are drawn.

    Args:
        run_dir: folder of the run.
        use_reference: whether ``label`` is an image to compare with; if not, it is not drawn.

    Example:
        >>> PreviewReconstructions("runs/first").attach(evaluator)
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
        sample, output = engine.state.batch[0], engine.state.output[0]
        zero_filled, pred = (channels_to_magnitude(x[:2].float(), 0)[0].cpu() for x in (sample[IMAGE], output[PRED]))
        reference = channels_to_magnitude(sample[LABEL][:2].float(), 0)[0].cpu() if self.use_reference else None
        i_slice = _brightest(zero_filled if reference is None else reference)
        epoch = engine.state.epoch
        for name in (f"previews/epoch_{epoch:04d}.png", "preview.png"):
            draw_reconstructions(
                self.run_dir / name,
                {"zero-filled": _slice(zero_filled, i_slice), "reconstruction": _slice(pred, i_slice)},
                None if reference is None else _slice(reference, i_slice),
                title=f"{sample.get(CASE, '')}, epoch {epoch}",
                affine=np.asarray(sample.get(AFFINE, np.eye(4))),
            )


def _slices_first(volume: Tensor) -> np.ndarray:
    array = volume.detach().cpu().numpy()
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _slice(volume: Tensor, i_slice: int) -> Tensor:
    return volume if volume.ndim == 2 else volume[..., i_slice]


def _viewed(view: View, picture: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of a picture with its whole images cut to the view, and the box of the view."""
    reference = picture["reference"]
    images = {name: view.of(image) for name, image in picture["images"].items()}
    box = {} if view.box is None else {"box": view.box}
    return {**picture, "images": images, "reference": None if reference is None else view.of(reference), **box}


def _lesion_note(row: Mapping[str, Any]) -> str:
    return f"PSNR {row.get('psnr', math.nan):.2f} dB, contrast {row['contrast']:+.3f}"


def _gathered(rows: list[Any]) -> list[Any]:
    """Return what all processes have."""
    parts = [rows]
    if idist.get_world_size() > 1:
        parts = [[] for _ in range(idist.get_world_size())]
        torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _brightest(volume: Tensor) -> int:
    return 0 if volume.ndim == 2 else int(volume.float().square().sum((0, 1)).argmax())
