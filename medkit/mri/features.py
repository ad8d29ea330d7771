"""Frozen features in which reconstructions are compared: weight-free gradients, VGG-19 from a file, MONAI backbones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad


class FeatureExtractor(nn.Module):
    """A frozen map from an image to feature maps of several levels.

    It has no parameters to train, adds nothing to a state dict, follows ``to(device)``, and its network stays in
    evaluation mode whatever ``train()`` says. Derived classes write ``forward(image)``: float32 ``(B, 1, H, W)`` with
    intensities near 0 to 1, to a list of tensors ``(B, C_i, H_i, W_i)``.

    Args:
        level_weights: weight of each level in a loss, at least 0.
        network: frozen network to hold, if any.
        min_size: smallest H and W in pixels.
    """

    def __init__(self, level_weights: Sequence[float], network: nn.Module | None = None, min_size: int = 1):
        super().__init__()
        self.level_weights = tuple(level_weights)
        self.min_size = min_size
        if network is not None:
            network.eval().requires_grad_(False)
        # A tuple hides the network from parameters(), state_dict() and train().
        self._frozen = (network,)

    @property
    def network(self) -> Any:
        """The frozen network, a ``torch.nn.Module``, or ``None``."""
        return self._frozen[0]

    def _apply(self, fn, recurse=True):
        if self.network is not None:
            self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _check(self, image: Tensor) -> None:
        name = type(self).__name__
        if image.ndim != 4 or image.shape[1] != 1:
            raise ValueError(f"{name}: 'image' must be (B, 1, H, W), got {tuple(image.shape)}")
        if min(image.shape[2:]) < self.min_size:
            raise ValueError(
                f"{name}: 'image' must be at least {self.min_size} pixels high and wide, got {tuple(image.shape)}"
            )


class GradientFeatures(FeatureExtractor):
    """Horizontal and vertical gradients and the Laplacian at several scales: linear, and without any weights to load.

    The default wherever no pretrained network is at hand. Level i works on the image averaged over
    ``2^i × 2^i`` pixels; all levels weigh the same and their weights add to 1.

    Args:
        n_levels: number of scales, at least 1; images need ``2^n_levels`` pixels on each side.

    Raises:
        ValueError: if ``n_levels`` is below 1.

    Example:
        >>> [tuple(f.shape) for f in GradientFeatures(2)(torch.rand(1, 1, 16, 16))]
        [(1, 3, 16, 16), (1, 3, 8, 8)]
    """

    kernels: Tensor

    def __init__(self, n_levels: int = 4):
        if n_levels < 1:
            raise ValueError(f"GradientFeatures: 'n_levels' must be at least 1, got {n_levels}")
        super().__init__([1 / n_levels] * n_levels, min_size=2**n_levels)
        along = torch.tensor([[-1.0, 0.0, 1.0]]) / 2
        across = torch.tensor([[1.0], [2.0], [1.0]]) / 4
        laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]) / 4
        kernels = torch.stack([across * along, (across * along).T, laplacian])
        self.register_buffer("kernels", kernels[:, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 1, H, W)`` to one ``(B, 3, H / 2^i, W / 2^i)`` for each level i, same unit."""
        self._check(image)
        levels = []
        for i in range(len(self.level_weights)):
            if i > 0:
                image = avg_pool2d(image, 2)
            levels.append(conv2d(pad(image, [1, 1, 1, 1], mode="replicate"), self.kernels.to(image.dtype)))
        return levels


# VGG-19 up to relu5_1: output channels of each convolution, 0 for max pooling.
_VGG19 = [64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512]
_VGG19_READ = (1, 6, 11, 20, 29)  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _vgg19_layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for item in _VGG19:
        if item == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
            channels = item
    return nn.Sequential(*layers)


class VGGFeatures(FeatureExtractor):
    """VGG-19 after relu1_1, 2_1, 3_1, 4_1 and 5_1, with weights from a file on disk.

    The network is written out here, so that torchvision is not needed; nothing is downloaded. Source of the choice of
    layers and of their weights 1/32, 1/16, 1/8, 1/4, 1: AECR-Net (Wu et al., CVPR 2021).

    Args:
        path: state dict as torchvision writes it (names ``features.0.weight``, …, the classifier is ignored), saved by
            ``torch.save``, ImageNet weights for instance; loaded with ``weights_only=True``.

    Raises:
        ValueError: if the file is missing or lacks a weight.

    Example:
        >>> features = VGGFeatures("/weights/vgg19-dcbb9e9d.pth")  # doctest: +SKIP
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: str):
        if not Path(path).is_file():
            raise ValueError(
                f"VGGFeatures: 'path' must be a file with the weights of torchvision's vgg19, got {path!r}; "
                "download it once, or use GradientFeatures, which needs no weights"
            )
        network = _vgg19_layers()
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {key.removeprefix("features."): value for key, value in state.items()}
        wanted = network.state_dict()
        wrong = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
        if wrong:
            raise ValueError(
                f"VGGFeatures: {path!r} must hold the weights of vgg19 under torchvision's names, "
                f"'features.{wrong[0]}' and {len(wrong) - 1} others are missing or of another shape"
            )
        network.load_state_dict({key: state[key] for key in wanted})
        super().__init__([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1], network, min_size=16)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 1, H, W)`` in 0 to 1 to five feature maps with 64, 128, 256, 512, 512 channels."""
        self._check(image)
        x = (image - self.mean) / self.std
        levels = []
        for i, layer in enumerate(self.network):
            x = layer(x)
            if i in _VGG19_READ:
                levels.append(x)
        return levels


class PerceptualFeatures(FeatureExtractor):
    """One level: the last feature map of a backbone of MONAI's ``PerceptualLoss``, normalised over its channels.

    Only made when asked for, since MONAI downloads the weights (torch.hub) unless they are in its cache.

    Args:
        network_type: ``"radimagenet_resnet50"`` (radiology), or ``"resnet50"`` (ImageNet, needs torchvision). MONAI's
            MedicalNet backbones are for volumes only.
        pretrained_path: file with the weights of ``"resnet50"``, instead of a download.
        cache_dir: folder for downloads; default: torch.hub's.

    Raises:
        ValueError: if ``network_type`` is another.

    Example:
        >>> features = PerceptualFeatures("radimagenet_resnet50")  # doctest: +SKIP
    """

    def __init__(
        self,
        network_type: str = "radimagenet_resnet50",
        pretrained_path: str | None = None,
        cache_dir: str | None = None,
    ):
        if network_type not in ("radimagenet_resnet50", "resnet50"):
            raise ValueError(
                f"PerceptualFeatures: 'network_type' must be 'radimagenet_resnet50' or 'resnet50', got {network_type!r}"
            )
        from monai.losses.perceptual import PerceptualLoss

        loss = PerceptualLoss(
            spatial_dims=2,
            network_type=network_type,
            is_fake_3d=False,
            cache_dir=cache_dir,
            pretrained_path=pretrained_path,
        )
        super().__init__([1.0], loss.perceptual_function, min_size=32)
        self.network_type = network_type

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 1, H, W)`` in 0 to 1 to a list of one ``(B, C, h, w)``."""
        from monai.losses.perceptual import normalize_tensor, subtract_mean, torchvision_zscore_norm

        self._check(image)
        similarity = self.network
        x = image.repeat(1, 3, 1, 1)
        if self.network_type == "resnet50":
            features = similarity.model(torchvision_zscore_norm(x))[similarity.final_layer]
        else:
            features = similarity.model(subtract_mean(x))
        return [normalize_tensor(features)]
