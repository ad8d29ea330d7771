"""Radial power spectra of simulated and of real brain slices, in one plot and as slopes.

Simulated: middle slices of test subjects. Real: complex T2 images and raw k-space, whose magnitude is taken. Each
spectrum is the power averaged over rings of spatial frequency, divided by the total power.

    python -m tests.benchmarks.cohort_spectrum --output spectrum.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.data import BrainCohort
from medkit.mri import acquisition_list, open_acquisition, root_sum_of_squares
from medkit.ops import centered_fft, centered_ifft
from tests.benchmarks.mri_recon import REAL_DATA

REAL = {
    "real T2, 1 coil": "mri_recon/derived/siat_t2_complex64.npz",
    "real, 8 coils": "mri_recon/sidward__espirit-python/full.cfl",
}
BAND = (0.03, 0.25)  # cycles per pixel: above the shape of the head, below the noise


def radial_spectrum(image: Tensor, n_rings: int = 64) -> Tensor:
    """Return the power of a real image (H, W) on rings of equal width up to 0.5 cycles per pixel, sum 1."""
    window = torch.hann_window(image.shape[0])[:, None] * torch.hann_window(image.shape[1])
    power = centered_fft((image * window).to(torch.complex64)).abs().square()
    y, x = (torch.arange(n) - n // 2 for n in image.shape)
    frequency = torch.hypot(y[:, None] / image.shape[0], x[None] / image.shape[1])
    ring = (frequency * 2 * n_rings).long().flatten()
    inside = ring < n_rings
    total = torch.zeros(n_rings).index_add(0, ring[inside], power.flatten()[inside])
    count = torch.bincount(ring[inside], minlength=n_rings)
    return total / count / total.sum()


def simulated(contrast: str, n_subjects: int) -> Tensor:
    """Return the mean spectrum of middle slices of a contrast of the cohort."""
    cohort = BrainCohort(n_subjects, split="test", contrasts=("t1", "t2", "pd", "flair"))
    spectra = []
    for entry in acquisition_list(None, "test", cohort, per="volume", contrast=contrast):
        exam = open_acquisition(entry["path"])
        for i in np.linspace(0.45, 0.65, 5) * exam.n_slices:
            spectra.append(radial_spectrum(torch.as_tensor(exam.read_slice(int(i)))[0]))
    return torch.stack(spectra).mean(0)


def real(path: Path) -> Tensor:
    """Return the mean spectrum of the slices of a raw file."""
    exam = open_acquisition(path)
    slices = (torch.as_tensor(exam.read_slice(i)) for i in range(exam.n_slices))
    return torch.stack([radial_spectrum(root_sum_of_squares(centered_ifft(k), dim=0)) for k in slices]).mean(0)


def slope(frequency: Tensor, spectrum: Tensor) -> float:
    """Return the exponent of a power law fitted within ``BAND``."""
    band = (frequency > BAND[0]) & (frequency < BAND[1])
    return float(np.polyfit(frequency[band].log(), spectrum[band].log(), 1)[0])


def main() -> None:
    """Print the slopes and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("spectrum.png"))
    parser.add_argument("--n-subjects", type=int, default=3)
    options = parser.parse_args()
    import matplotlib.pyplot as plt

    spectra = {f"simulated {c.upper()}": simulated(c, options.n_subjects) for c in ("t1", "t2", "flair")}
    for name, path in REAL.items():
        if (REAL_DATA / path).exists():
            spectra[name] = real(REAL_DATA / path)
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, spectrum in spectra.items():
        frequency = (torch.arange(len(spectrum)) + 0.5) / (2 * len(spectrum))
        label = f"{name} (slope {slope(frequency, spectrum):.2f})"
        axes.loglog(frequency, spectrum, "--" if name.startswith("sim") else "-", label=label)
        print(label)  # noqa: T201
    axes.set(xlabel="spatial frequency (cycles / pixel)", ylabel="mean power (sum = 1)")
    axes.legend()
    figure.savefig(options.output, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
