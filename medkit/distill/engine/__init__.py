"""The engine of distillation: a loss and handlers for MONAI's unchanged trainer, in any bundle."""

from medkit.distill.engine.handler import DistillationHandler
from medkit.distill.engine.loading import join_parameters, load_teacher
from medkit.distill.engine.loss import DistillationLoss
from medkit.distill.engine.policy import SoKDPolicyHandler
from medkit.distill.engine.teacher_check import validate_network

__all__ = [
    "DistillationHandler",
    "DistillationLoss",
    "SoKDPolicyHandler",
    "join_parameters",
    "load_teacher",
    "validate_network",
]
