"""Transforms that make images noisy, say how noisy they are, and hide pixels."""

from medkit.denoise.transforms.blind_spots import BlindSpotd
from medkit.denoise.transforms.kinds import RandOneNoise, RandWindowedNoise, named_noise
from medkit.denoise.transforms.levels import GivenSigmad, RandTellSigmad
from medkit.denoise.transforms.noise import (
    RandCountNoise,
    RandDoseNoise,
    RandMagnitudeNoise,
    RandNoise,
    RandNoised,
    RandWhiteNoise,
    SameNoised,
)
from medkit.denoise.transforms.noise_maps import AppendNoiseMapd

__all__ = [
    "AppendNoiseMapd",
    "BlindSpotd",
    "GivenSigmad",
    "RandCountNoise",
    "RandDoseNoise",
    "RandMagnitudeNoise",
    "RandNoise",
    "RandNoised",
    "RandOneNoise",
    "RandTellSigmad",
    "RandWhiteNoise",
    "RandWindowedNoise",
    "SameNoised",
    "named_noise",
]
