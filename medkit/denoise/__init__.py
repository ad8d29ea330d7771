"""Denoising: networks, noise of each modality, training without clean images, metrics, tiles."""

from medkit.denoise.classical import NonLocalMeans
from medkit.denoise.dicom_series import DicomSeries, read_dicom_series
from medkit.denoise.dicom_writing import write_dicom_series
from medkit.denoise.dncnn import DnCNN
from medkit.denoise.engine import PreviewDenoised, SaveDenoised
from medkit.denoise.estimation import background_sigma, white_noise_sigma
from medkit.denoise.losses import BlindSpotLoss, SteinLoss
from medkit.denoise.mdrn import MDRN
from medkit.denoise.means import RestoreMeand, restored_mean
from medkit.denoise.metrics import HounsfieldBias, HounsfieldRMSE, noise_power_spectrum, radial_spectrum
from medkit.denoise.physics import (
    count_noise,
    dose_noise,
    gaussian_noise,
    magnitude_noise,
    poisson_quantile,
    sinogram_size,
)
from medkit.denoise.readers import LoadNoisyd, UnscaleWindowd, image_list
from medkit.denoise.signs import KeepSignd
from medkit.denoise.tiling import TileInferer
from medkit.denoise.transforms import (
    AppendNoiseMapd,
    BlindSpotd,
    GivenSigmad,
    RandCountNoise,
    RandDoseNoise,
    RandMagnitudeNoise,
    RandNoise,
    RandNoised,
    RandOneNoise,
    RandTellSigmad,
    RandWhiteNoise,
    RandWindowedNoise,
    SameNoised,
    named_noise,
)

__all__ = [
    "MDRN",
    "AppendNoiseMapd",
    "BlindSpotLoss",
    "BlindSpotd",
    "DicomSeries",
    "DnCNN",
    "GivenSigmad",
    "HounsfieldBias",
    "HounsfieldRMSE",
    "KeepSignd",
    "LoadNoisyd",
    "NonLocalMeans",
    "PreviewDenoised",
    "RandCountNoise",
    "RandDoseNoise",
    "RandMagnitudeNoise",
    "RandNoise",
    "RandNoised",
    "RandOneNoise",
    "RandTellSigmad",
    "RandWhiteNoise",
    "RandWindowedNoise",
    "RestoreMeand",
    "SameNoised",
    "SaveDenoised",
    "SteinLoss",
    "TileInferer",
    "UnscaleWindowd",
    "background_sigma",
    "count_noise",
    "dose_noise",
    "gaussian_noise",
    "image_list",
    "magnitude_noise",
    "named_noise",
    "noise_power_spectrum",
    "poisson_quantile",
    "radial_spectrum",
    "read_dicom_series",
    "restored_mean",
    "sinogram_size",
    "white_noise_sigma",
    "write_dicom_series",
]
