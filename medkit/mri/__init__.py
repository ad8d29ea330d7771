"""MRI reconstruction: physics, sampling, coils, networks and losses."""

from medkit.mri.channels import (
    PackedReconstructor,
    channels_to_complex,
    channels_to_magnitude,
    complex_to_channels,
    pack_reconstruction,
    pack_target,
    unpack_reconstruction,
)
from medkit.mri.clgnet import CLGNet, SpatialFourierLayer, SpatialFourierResidualBlock
from medkit.mri.coils import estimate_sens_maps, root_sum_of_squares, sense_combine
from medkit.mri.data_consistency import (
    ConjugateGradientDataConsistency,
    HardDataConsistency,
    SoftDataConsistency,
    conjugate_gradient_data_consistency,
    hard_data_consistency,
    soft_data_consistency,
)
from medkit.mri.engine import PreviewReconstructions, SaveReconstructions, write_nifti
from medkit.mri.espirit import espirit_maps
from medkit.mri.features import FeatureExtractor, GradientFeatures, PerceptualFeatures, VGGFeatures
from medkit.mri.figures import draw_reconstructions
from medkit.mri.losses import ContrastiveReconstructionLoss
from medkit.mri.masks import (
    EquispacedMask,
    FileMask,
    GaussianMask,
    GaussianMask2D,
    PoissonDiscMask,
    RadialMask,
    RandomMask,
    SamplingMask,
    actual_acceleration,
)
from medkit.mri.mc_cdic import KspaceCropOperator, MCCDic, MultiContrastLoss, MultiScaleDictionary
from medkit.mri.metrics import VolumeMetric, VolumeNMSE, VolumePSNR, VolumeSSIM, nmse, psnr, ssim
from medkit.mri.physics import CartesianOperator, sense_adjoint, sense_forward, sense_normal
from medkit.mri.readers import Acquisition, LoadAcquisitiond, acquisition_list, find_mask, open_acquisition
from medkit.mri.refinement import ImageRefiner
from medkit.mri.transforms import (
    ChannelsToComplexd,
    CoilCombined,
    ComplexToChannelsd,
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    ToKspaced,
    Undersampled,
    UnpackReconstructiond,
)

__all__ = [
    "Acquisition",
    "CLGNet",
    "CartesianOperator",
    "ChannelsToComplexd",
    "CoilCombined",
    "ComplexToChannelsd",
    "ConjugateGradientDataConsistency",
    "ContrastiveReconstructionLoss",
    "EquispacedMask",
    "FeatureExtractor",
    "FileMask",
    "GaussianMask",
    "GaussianMask2D",
    "GradientFeatures",
    "HardDataConsistency",
    "ImageRefiner",
    "KspaceCropOperator",
    "LoadAcquisitiond",
    "MCCDic",
    "MultiContrastLoss",
    "MultiScaleDictionary",
    "PackReconstructiond",
    "PackedReconstructor",
    "PerceptualFeatures",
    "PoissonDiscMask",
    "PreviewReconstructions",
    "RadialMask",
    "RandomMask",
    "SamplingMask",
    "SaveReconstructions",
    "ScaleByPercentiled",
    "SensitivityMapsd",
    "SimulateKspaced",
    "SoftDataConsistency",
    "SpatialFourierLayer",
    "SpatialFourierResidualBlock",
    "ToKspaced",
    "Undersampled",
    "UnpackReconstructiond",
    "VGGFeatures",
    "VolumeMetric",
    "VolumeNMSE",
    "VolumePSNR",
    "VolumeSSIM",
    "acquisition_list",
    "actual_acceleration",
    "channels_to_complex",
    "channels_to_magnitude",
    "complex_to_channels",
    "conjugate_gradient_data_consistency",
    "draw_reconstructions",
    "espirit_maps",
    "estimate_sens_maps",
    "find_mask",
    "hard_data_consistency",
    "nmse",
    "open_acquisition",
    "pack_reconstruction",
    "pack_target",
    "psnr",
    "root_sum_of_squares",
    "sense_adjoint",
    "sense_combine",
    "sense_forward",
    "sense_normal",
    "soft_data_consistency",
    "ssim",
    "unpack_reconstruction",
    "write_nifti",
]
