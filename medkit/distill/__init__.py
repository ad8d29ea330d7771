"""Knowledge distillation: taps, adapters, terms of the loss and their sums, the engine, and a task of image quality."""

from medkit.distill.adapters import ConvRegression3, ResizingAdapter, build_adapter
from medkit.distill.areas import AreaMaps, AreaProposal, DistinctiveArea, box_masks, peak_boxes
from medkit.distill.artefacts import ArtefactSlices
from medkit.distill.cifar import CIFARResNet
from medkit.distill.contract import DistillationTerm, Hints
from medkit.distill.contrast import CRD
from medkit.distill.distribution import DistributionHead, gaussian_divergence
from medkit.distill.engine import (
    DistillationHandler,
    DistillationLoss,
    SoKDPolicyHandler,
    add_distillation,
    bundle_network,
    compression_report,
    distillation_overlay,
    example_image,
    install_distillation,
    join_parameters,
    load_teacher,
    tappable_modules,
    validate_network,
)
from medkit.distill.features import AdaptedTerm, AttentionTransfer, ChannelWiseKD, FitNet
from medkit.distill.fusion import AdaptiveFeatureFusion
from medkit.distill.hmds import HMDS
from medkit.distill.logits import DIST, DKD, MLKD, BernoulliKD, LogitKD, standardize_logits
from medkit.distill.losses import ClassificationLoss
from medkit.distill.metrics import ClassAccuracy, classification_metrics, expected_calibration_error
from medkit.distill.paths import unet_stages
from medkit.distill.predictions import PreviewClassification, SaveClassification
from medkit.distill.readers import class_names, image_list
from medkit.distill.refiner import FeatureRefiner
from medkit.distill.relations import RelationalKD, SimilarityPreserving
from medkit.distill.review import ReviewKD, hierarchical_context_loss
from medkit.distill.schedules import ConstantWeight, CosineWeight, LinearWarmup, StopAt, WeightSchedule
from medkit.distill.sokd import SoKD
from medkit.distill.sums import DistillationSum, WeightedTerm
from medkit.distill.supervision import DeepSupervisionKD
from medkit.distill.taps import FeatureTaps, FrozenTeacher, Observation, probe_taps
from medkit.distill.transforms import LoadPictured
from medkit.distill.unified import UnifiedDistributionKD

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "HMDS",
    "MLKD",
    "AdaptedTerm",
    "AdaptiveFeatureFusion",
    "AreaMaps",
    "AreaProposal",
    "ArtefactSlices",
    "AttentionTransfer",
    "BernoulliKD",
    "CIFARResNet",
    "ChannelWiseKD",
    "ClassAccuracy",
    "ClassificationLoss",
    "ConstantWeight",
    "ConvRegression3",
    "CosineWeight",
    "DeepSupervisionKD",
    "DistillationHandler",
    "DistillationLoss",
    "DistillationSum",
    "DistillationTerm",
    "DistinctiveArea",
    "DistributionHead",
    "FeatureRefiner",
    "FeatureTaps",
    "FitNet",
    "FrozenTeacher",
    "Hints",
    "LinearWarmup",
    "LoadPictured",
    "LogitKD",
    "Observation",
    "PreviewClassification",
    "RelationalKD",
    "ResizingAdapter",
    "ReviewKD",
    "SaveClassification",
    "SimilarityPreserving",
    "SoKD",
    "SoKDPolicyHandler",
    "StopAt",
    "UnifiedDistributionKD",
    "WeightSchedule",
    "WeightedTerm",
    "add_distillation",
    "box_masks",
    "build_adapter",
    "bundle_network",
    "class_names",
    "classification_metrics",
    "compression_report",
    "distillation_overlay",
    "example_image",
    "expected_calibration_error",
    "gaussian_divergence",
    "hierarchical_context_loss",
    "image_list",
    "install_distillation",
    "join_parameters",
    "load_teacher",
    "peak_boxes",
    "probe_taps",
    "standardize_logits",
    "tappable_modules",
    "unet_stages",
    "validate_network",
]
