"""The ranges that a subject's parameters are drawn from, one set for each split."""

import dataclasses
from dataclasses import dataclass

Range = tuple[float, float]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of what varies from subject to subject; all lengths in mm, all times in ms.

    Args:
        amplitude: standard deviation of the velocity's coarse and fine part.
        bend: standard deviation of the folding displacement, wavelength ``bend_wavelength``.
        bend_wavelength: wavelength of the folding displacement.
        fold: amplitude of the ripple that is added to the white surface.
        fold_wavelength: distance from one added gyrus to the next.
        sulcus: half width of the added sulci.
        edge: width in mm of the borders between grey matter, white matter and fluid.
        thickness: cortex.
        atrophy: recession of the cortex and, doubled, widening of the ventricles; negative for a full brain.
        rim: fluid between brain and skull.
        bone: skull.
        scalp: skin, fat and muscle over the skull.
        marrow: share of the skull's thickness that is marrow.
        folia_wavelength: distance of the cerebellum's leaves at its surface.
        texture: factor on the tissues' texture.
        relaxation: relative change of relaxation times and proton density from subject to subject.
        bias: standard deviation of the logarithm of the receive bias.
        t1_ir_tr: repetition time of the T1-weighted inversion recovery (a magnetisation-prepared gradient echo).
        t1_ir_ti: its inversion time.
        t1_tr: repetition time of the spoiled gradient echo.
        t1_flip: its flip angle in degrees.
        t1_se_tr: repetition time of the T1-weighted spin echo.
        t2_tr: repetition time of the T2-weighted spin echo.
        t2_te: its echo time.
        pd_tr: repetition time of the proton-density spin echo.
        pd_te: its echo time.
        flair_tr: repetition time of the inversion recovery.
        flair_te: its echo time.
        flair_null: factor on the inversion time that nulls fluid.
        fat: factor on the signal of fat and marrow.
        inflow: brightness of blood on gradient echoes, in units of the brightest tissue.
    """

    amplitude: tuple[Range, Range] = ((3.0, 5.5), (1.0, 2.0))
    bend: Range = (0.9, 1.8)
    bend_wavelength: Range = (20.0, 30.0)
    fold: Range = (0.8, 1.8)
    sulcus: Range = (0.25, 0.9)
    fold_wavelength: Range = (11.0, 17.0)
    edge: Range = (0.5, 1.9)
    thickness: Range = (2.3, 3.1)
    atrophy: Range = (-0.4, 0.8)
    rim: Range = (0.8, 3.0)
    bone: Range = (4.5, 7.5)
    scalp: Range = (4.0, 8.0)
    marrow: Range = (0.25, 0.6)
    folia_wavelength: Range = (3.4, 5.2)
    texture: Range = (0.8, 2.2)
    relaxation: Range = (-0.1, 0.1)
    bias: Range = (0.05, 0.22)
    t1_ir_tr: Range = (1800.0, 2400.0)
    t1_ir_ti: Range = (1000.0, 1250.0)
    t1_tr: Range = (14.0, 26.0)
    t1_flip: Range = (20.0, 35.0)
    t1_se_tr: Range = (430.0, 700.0)
    t2_tr: Range = (2800.0, 6000.0)
    t2_te: Range = (75.0, 120.0)
    pd_tr: Range = (2200.0, 4500.0)
    pd_te: Range = (10.0, 28.0)
    flair_tr: Range = (8000.0, 11000.0)
    flair_te: Range = (90.0, 140.0)
    flair_null: Range = (0.94, 1.02)
    fat: Range = (0.25, 0.9)
    inflow: Range = (0.3, 1.1)


RANGES: dict[str, Ranges] = {
    "train": Ranges(),
    "validation": dataclasses.replace(
        Ranges(), fold_wavelength=(12.0, 15.0), folia_wavelength=(3.8, 4.8), t2_te=(82.0, 112.0), bias=(0.08, 0.18)
    ),
    "test": dataclasses.replace(
        Ranges(),
        amplitude=((3.5, 6.0), (1.2, 2.2)),
        bend=(1.1, 2.0),
        fold=(1.0, 2.0),
        fold_wavelength=(10.5, 15.5),
        atrophy=(-0.2, 1.0),
        texture=(0.7, 2.4),
        relaxation=(-0.12, 0.12),
        t1_flip=(22.0, 37.0),
        t2_te=(80.0, 125.0),
        flair_te=(100.0, 145.0),
    ),
}
