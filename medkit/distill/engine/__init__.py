"""The engine of distillation: a loss and handlers for MONAI's unchanged trainer, in any bundle."""

from medkit.distill.engine.compression import compression_report
from medkit.distill.engine.example import example_image, tappable_modules
from medkit.distill.engine.handler import DistillationHandler
from medkit.distill.engine.installing import install_distillation
from medkit.distill.engine.loading import bundle_network, join_parameters, load_teacher
from medkit.distill.engine.loss import DistillationLoss
from medkit.distill.engine.policy import SoKDPolicyHandler
from medkit.distill.engine.recipes import distillation_overlay
from medkit.distill.engine.rewiring import add_distillation
from medkit.distill.engine.teacher_check import validate_network

__all__ = [
    "DistillationHandler",
    "DistillationLoss",
    "SoKDPolicyHandler",
    "add_distillation",
    "bundle_network",
    "compression_report",
    "distillation_overlay",
    "example_image",
    "install_distillation",
    "join_parameters",
    "load_teacher",
    "tappable_modules",
    "validate_network",
]
