"""What every bundle's run needs: refused typos, resumable training, seeds, progress, and metrics on disk."""

from medkit.workflow.atomic import atomic_path
from medkit.workflow.averaging import WeightAverage
from medkit.workflow.doors import report_errors_in_one_line, user_message
from medkit.workflow.knobs import check_knobs
from medkit.workflow.merging import config_order_fault, stands_alone
from medkit.workflow.nifti import write_nifti
from medkit.workflow.overrides import check_overrides
from medkit.workflow.progress import ProgressBar, is_shown
from medkit.workflow.records import MetricsWriter, save_config_copy, write_metrics
from medkit.workflow.resuming import Resume
from medkit.workflow.sampling import EpochSampler, SeededDataset
from medkit.workflow.seeding import SeedEachEpoch, epoch_seed
from medkit.workflow.verification import example_inputs, verify_bundle

__all__ = [
    "EpochSampler",
    "MetricsWriter",
    "ProgressBar",
    "Resume",
    "SeedEachEpoch",
    "SeededDataset",
    "WeightAverage",
    "atomic_path",
    "check_knobs",
    "check_overrides",
    "config_order_fault",
    "epoch_seed",
    "example_inputs",
    "is_shown",
    "report_errors_in_one_line",
    "save_config_copy",
    "stands_alone",
    "user_message",
    "verify_bundle",
    "write_metrics",
    "write_nifti",
]
