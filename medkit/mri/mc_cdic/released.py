"""What the released weights of MC-CDic were trained for, and a warning where a run asks them for something else."""

import logging
import os
from pathlib import Path

from ignite.engine import Engine, Events

from medkit.mri.masks import CentreMask, SamplingMask
from medkit.mri.mc_cdic.packing import N_FIXED, PackedMultiContrast

logger = logging.getLogger(__name__)


class CheckReleasedWeights:
    """Warn, once in a run, where the released weights are used for what they were not trained for.

    A handler of MONAI's evaluators. The weights were trained with one reference, on one coil, and for sampling spread
    over k-space; a run with several references fails later, one with several coils or for super-resolution does not,
    but is worse than with weights of its own. Nothing is said of other weights.

    Args:
        ckpt_path: weights of the run; ``None``: none.
        released: where the released weights are.
        network: what they are loaded into, which tells the number of references.
        mask: sampling pattern of the run.

    Example:
        >>> CheckReleasedWeights("mine.pt", "models/model.pt", PackedMultiContrast(MCCDic(preset="small")), mask)
    """

    def __init__(
        self,
        ckpt_path: str | os.PathLike[str] | None,
        released: str | os.PathLike[str],
        network: PackedMultiContrast,
        mask: SamplingMask | None = None,
    ) -> None:
        self.is_used = ckpt_path is not None and Path(ckpt_path).resolve() == Path(released).resolve()
        self.n_guides = network.ref_channels
        self.mask = mask

    def attach(self, engine: Engine) -> None:
        """Warn of references and sampling now, before weights are loaded, and of coils when the first exam is there."""
        if not self.is_used:
            return
        if self.n_guides > 1:
            _warn("one reference", f"{self.n_guides} of them")
        if isinstance(self.mask, CentreMask):
            _warn("samples spread over k-space", "super-resolution, which has its centre alone")
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self._check_coils)

    def _check_coils(self, engine: Engine) -> None:
        n_coils = (engine.state.batch["image"].shape[1] - N_FIXED - self.n_guides) // 2  # 0 stands for a uniform one
        if n_coils > 1:
            _warn("one coil", f"{n_coils} of them")


def _warn(trained: str, asked: str) -> None:
    logger.warning(
        "The released weights of MC-CDic were trained for %s, this run has %s: train weights for it and give them with "
        "ckpt_path, or do not trust the result",
        trained,
        asked,
    )
