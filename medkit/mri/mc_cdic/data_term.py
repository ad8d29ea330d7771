"""The data term at the end of the network: none, or one that honours the sampled k-space."""

import math

import torch
from torch import Tensor, nn

from medkit.mri.clgnet.consistency import ChannelDataConsistency, normal_channels

DATA_TERMS = ("implicit", "hard", "soft", "grad")


class DataTerm(nn.Module):
    r"""Pull an estimate back to the measurement, which enters as :math:`x_0 = A^H y` alone.

    ``implicit``: not at all; ``hard``: :math:`x - (A^H A x - x_0)`, which puts the samples of one coil back;
    ``soft``: the same divided by :math:`1 + \nu`; ``grad``: the same times :math:`\mu`; :math:`\nu` and :math:`\mu`
    are learned and positive.

    Args:
        kind: one of the four.
        is_real: for real images, given as one channel instead of two.

    Raises:
        ValueError: if ``kind`` is unknown.

    Example:
        >>> x0 = torch.ones(1, 2, 4, 4)
        >>> DataTerm("hard")(torch.zeros_like(x0), x0, torch.ones(1, 1, 4, 4), None, "fft").shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, kind: str = "hard", is_real: bool = False):
        super().__init__()
        if kind not in DATA_TERMS:
            raise ValueError(f"MCCDic: 'data_term' must be one of {DATA_TERMS}, got {kind!r}")
        self.kind = kind
        self.is_real = is_real
        self.consistency = ChannelDataConsistency(kind if kind in ("hard", "soft") else "none", is_real=is_real)
        self.log_step = nn.Parameter(torch.tensor(math.log(0.5))) if kind == "grad" else None

    def forward(self, x: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None, backend: str) -> Tensor:
        """Apply it to the estimate, in float32 whatever autocast says.

        Args:
            x: estimate, real, ``(B, 2 or 1, H, W)``.
            zero_filled: :math:`A^H y`, same shape.
            mask: 0/1, ``(B, 1, H, W)``, frequency 0 at index 0.
            sens_maps: ``(B, 2 coil, H, W)`` or ``None``.
            backend: ``"fft"`` or ``"matmul"``.

        Returns:
            New estimate, same shape.
        """
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self._apply_term(x.to(zero_filled.dtype), zero_filled, mask, sens_maps, backend)
        return self._apply_term(x.to(zero_filled.dtype), zero_filled, mask, sens_maps, backend)

    def _apply_term(self, x: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None, fft: str) -> Tensor:
        log_step = self.log_step
        if log_step is None:
            return self.consistency(x, zero_filled, mask, sens_maps, fft)
        return x + log_step.exp() * (zero_filled - normal_channels(x, mask, sens_maps, self.is_real, fft))
