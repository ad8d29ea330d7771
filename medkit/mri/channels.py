"""Complex images as real channels, and the one tensor that a reconstruction network takes: packed and unpacked here."""

import torch
from torch import Tensor, nn


def _check_complex(name: str, argument: str, x: Tensor, channel_dim: int) -> None:
    if not x.is_complex() or x.ndim < channel_dim + 3:
        axes = ", ".join((["B"] if channel_dim else []) + ["coil", "H", "W", "..."])
        raise ValueError(f"{name}: '{argument}' must be complex ({axes}), got {x.dtype} {tuple(x.shape)}")


def check_target(name: str, target: str) -> None:
    """Refuse, in the name of a function, what is no kind of fully sampled image to compare with."""
    if target not in ("sense", "rss"):
        raise ValueError(f"{name}: 'target' must be 'sense' or 'rss', got {target!r}")


def complex_to_channels(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Write each complex channel as two real ones: Re 1, Im 1, Re 2, Im 2, ...

    Args:
        x: complex, ``(B, C, *S)``, or ``(C, *S)`` with ``channel_dim=0``. Any unit.
        channel_dim: axis of the channels.

    Returns:
        Real, ``(B, 2 C, *S)``.

    Raises:
        ValueError: if ``x`` is not complex.

    Example:
        >>> complex_to_channels(torch.ones(1, 3, 4, 4, dtype=torch.complex64)).shape
        torch.Size([1, 6, 4, 4])
    """
    if not x.is_complex():
        raise ValueError(f"complex_to_channels: 'x' must be complex, got {x.dtype} {tuple(x.shape)}")
    dim = channel_dim % x.ndim
    return torch.stack((x.real, x.imag), dim + 1).flatten(dim, dim + 1)


def channels_to_complex(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Read pairs of real channels as complex ones: the inverse of :func:`complex_to_channels`.

    Args:
        x: real, ``(B, 2 C, *S)``, or ``(2 C, *S)`` with ``channel_dim=0``; float32, or half precision, which is
            widened.
        channel_dim: axis of the channels.

    Returns:
        Complex, ``(B, C, *S)``.

    Raises:
        ValueError: if ``x`` is complex or has an odd number of channels.

    Example:
        >>> channels_to_complex(torch.ones(1, 6, 4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """
    dim = channel_dim % x.ndim
    if x.is_complex() or x.shape[dim] % 2:
        raise ValueError(
            f"channels_to_complex: 'x' must be real with an even number of channels on axis {dim}, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    pairs = x.unflatten(dim, (-1, 2))
    return torch.complex(pairs.select(dim + 1, 0), pairs.select(dim + 1, 1))


def channels_to_magnitude(x: Tensor, channel_dim: int = 1, epsilon: float = 0.0) -> Tensor:
    r"""Magnitude of an image given as Re and Im channels.

    .. math:: |x| = \sqrt{x_{re}^2 + x_{im}^2 + \epsilon}

    Args:
        x: real, ``(B, 2, *S)``, or ``(2, *S)`` with ``channel_dim=0``.
        channel_dim: axis of the channels.
        epsilon: added under the root, in squared units of ``x``; greater than 0 keeps the gradient finite where the
            image is 0 (losses use 1e-12).

    Returns:
        Real, ``(B, 1, *S)``, same unit.

    Raises:
        ValueError: if there are not exactly two channels.

    Example:
        >>> channels_to_magnitude(torch.tensor([[[[3.0]], [[4.0]]]]))
        tensor([[[[5.]]]])
    """
    if x.is_complex() or x.shape[channel_dim] != 2:
        raise ValueError(
            f"channels_to_magnitude: 'x' must be real with 2 channels on axis {channel_dim}, "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    return (x.square().sum(channel_dim, keepdim=True) + epsilon).sqrt()


def _shifted_mask(mask: Tensor, like: Tensor, channel_dim: int, inverse: bool) -> Tensor:
    """Fill the mask to the size of an image, real, and move frequency 0 from index n // 2 to 0 (or back)."""
    shape = list(like.shape)
    shape[channel_dim] = 1
    dims = (channel_dim + 1, channel_dim + 2)
    full = mask.expand(shape)
    return torch.fft.fftshift(full, dim=dims) if inverse else torch.fft.ifftshift(full, dim=dims)


def pack_reconstruction(
    zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Put all that a reconstruction network needs into one real tensor (the key ``image`` of ``medkit.data``).

    The mask is stored with frequency 0 at index 0, so that networks need no shift: with it, the un-centred transform
    describes the same measurement as the centred one.

    Args:
        zero_filled: complex, ``(B, 1, H, W[, S])``, or without ``B`` for ``channel_dim=0``; already divided by its
            scale.
        mask: bool or 0/1, broadcastable to ``zero_filled``, centred.
        sens_maps: complex, ``(B, coil, H, W[, S])``; ``None``: one uniform coil, and no channels for it.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        float32, ``(B, 3 + 2 coil, H, W[, S])``: Re, Im of the image, the mask, then Re, Im of each coil's sensitivity.

    Raises:
        ValueError: if an argument is not of this form.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> pack_reconstruction(x0, torch.ones(1, 1, 1, 4, dtype=torch.bool)).shape
        torch.Size([1, 3, 4, 4])
    """
    name = "pack_reconstruction"
    _check_complex(name, "zero_filled", zero_filled, channel_dim)
    if zero_filled.shape[channel_dim] != 1:
        raise ValueError(f"{name}: 'zero_filled' must have 1 channel, got {tuple(zero_filled.shape)}")
    fits = mask.ndim == zero_filled.ndim
    if mask.is_complex() or not (fits and all(m in (1, n) for m, n in zip(mask.shape, zero_filled.shape, strict=True))):
        raise ValueError(
            f"{name}: 'mask' must be real and broadcast to {tuple(zero_filled.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    shifted = _shifted_mask(mask, zero_filled, channel_dim, inverse=False)
    parts = [complex_to_channels(zero_filled, channel_dim), shifted.to(torch.float32)]
    if sens_maps is not None:
        _check_complex(name, "sens_maps", sens_maps, channel_dim)
        if sens_maps.shape[channel_dim + 1 :] != zero_filled.shape[channel_dim + 1 :]:
            raise ValueError(
                f"{name}: 'sens_maps' must be of the size of 'zero_filled' {tuple(zero_filled.shape)}, "
                f"got {tuple(sens_maps.shape)}"
            )
        parts.append(complex_to_channels(sens_maps, channel_dim))
    return torch.cat(parts, channel_dim).to(torch.float32)


def unpack_reconstruction(image: Tensor, channel_dim: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take a packed tensor apart again: the inverse of :func:`pack_reconstruction`.

    Args:
        image: real, ``(B, 3 + 2 coil, H, W[, S])``, or without ``B`` for ``channel_dim=0``.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        ``zero_filled`` complex ``(B, 1, H, W[, S])``, ``mask`` bool of the same shape, centred, and ``sens_maps``
        complex ``(B, coil, H, W[, S])``, or ``None`` if there are only three channels.

    Raises:
        ValueError: if the number of channels is not 3, 5, 7, ...

    Example:
        >>> unpack_reconstruction(torch.ones(1, 5, 4, 4))[2].shape
        torch.Size([1, 1, 4, 4])
    """
    n_channels = image.shape[channel_dim]
    if image.is_complex() or n_channels < 3 or n_channels % 2 == 0:
        raise ValueError(
            f"unpack_reconstruction: 'image' must be real with 3 + 2 coil channels on axis {channel_dim}, "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    zero_filled = channels_to_complex(image.narrow(channel_dim, 0, 2), channel_dim)
    mask = _shifted_mask(image.narrow(channel_dim, 2, 1) > 0.5, zero_filled, channel_dim, inverse=True)
    if n_channels == 3:
        return zero_filled, mask, None
    return zero_filled, mask, channels_to_complex(image.narrow(channel_dim, 3, n_channels - 3), channel_dim)


def pack_target(reference: Tensor, zero_filled: Tensor, channel_dim: int = 1) -> Tensor:
    """Put the image to reach and the image to leave into one real tensor (the key ``label`` of ``medkit.data``).

    Args:
        reference: complex, ``(B, 1, H, W[, S])``, or without ``B`` for ``channel_dim=0``; divided by the scale.
        zero_filled: complex, same shape and unit.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        float32, ``(B, 4, H, W[, S])``: Re, Im of ``reference``, then of ``zero_filled``.

    Raises:
        ValueError: if the two are not complex images of one shape.

    Example:
        >>> x = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> pack_target(x, x).shape
        torch.Size([1, 4, 4, 4])
    """
    _check_complex("pack_target", "reference", reference, channel_dim)
    if reference.shape != zero_filled.shape or reference.shape[channel_dim] != 1:
        raise ValueError(
            "pack_target: 'reference' and 'zero_filled' must be complex with 1 channel and of one shape, "
            f"got {tuple(reference.shape)} and {tuple(zero_filled.shape)}"
        )
    return torch.cat([complex_to_channels(x, channel_dim) for x in (reference, zero_filled)], channel_dim).float()


class PackedReconstructor(nn.Module):
    """A reconstruction network behind one real tensor in, one real tensor out: the form that bundles and exports need.

    Args:
        network: called as ``network(zero_filled, mask, sens_maps)`` with real ``(B, 2, H, W)``, ``(B, 1, H, W)``
            (frequency 0 at index 0) and ``(B, 2 coil, H, W)`` or ``None``; returns ``(B, 2, H, W)``. A network with an
            attribute ``in_channels`` of 1 gets and returns the real part alone.
        target: ``"sense"``: ``pred`` is the network's image; ``"rss"``: that times the root sum of squares of the
            sensitivities, so that its magnitude is the root sum of squares of the coil images that it explains.

    Raises:
        ValueError: if ``target`` is unknown.

    Example:
        >>> from medkit.mri import CLGNet
        >>> PackedReconstructor(CLGNet(preset="small"))(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(self, network: nn.Module, target: str = "sense"):
        super().__init__()
        check_target("PackedReconstructor", target)
        self.network = network
        self.is_rss = target == "rss"
        self.n_image_channels = int(getattr(network, "in_channels", 2))

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct.

        Args:
            image: real, ``(B, 3 + 2 coil, H, W)``, see :func:`pack_reconstruction`.

        Returns:
            ``pred``: float32, ``(B, 2, H, W)``, Re and Im of the reconstruction in the unit of the input image.

        Raises:
            ValueError: if the number of channels is not 3, 5, 7, ...
        """
        n_channels = image.shape[1]
        if not torch.jit.is_tracing():
            if n_channels < 3 or n_channels % 2 == 0:
                raise ValueError(f"PackedReconstructor: 'image' must have 3 + 2 coil channels, got {n_channels}")
        sens_maps: Tensor | None = None
        if n_channels > 3:
            sens_maps = image[:, 3:]
        pred = self.network(image[:, : self.n_image_channels], image[:, 2:3], sens_maps)
        if self.n_image_channels == 1:
            pred = torch.cat([pred, torch.zeros_like(pred)], 1)
        if self.is_rss and sens_maps is not None:
            pred = pred * torch.linalg.vector_norm(sens_maps, dim=1, keepdim=True)
        return pred
