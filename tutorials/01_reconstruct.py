# %% [markdown]
# # From under-sampled k-space to an image
#
# A scanner measures an image's Fourier transform, *k-space*, line by line; measuring fewer lines saves time and folds
# the image onto itself. We simulate a brain and a scanner, leave lines out in several ways, and reconstruct with a
# network that was trained on other simulated brains. Needs no data and no GPU; takes about a minute.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from medkit.data import BrainCohort
from medkit.mri import (
    CLGNet,
    CoilCombined,
    EquispacedMask,
    PackedReconstructor,
    PackReconstructiond,
    PoissonDiscMask,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    Undersampled,
    channels_to_complex,
    psnr,
)

# %% [markdown]
# ## A brain and a scanner
#
# Every subject of `BrainCohort` is the ICBM 152 template, deformed, with tissue contrasts from signal equations.
# `SimulateKspaced` gives the magnitude image a smooth phase, eight receive coils and noise, and transforms it.

# %%
subject = BrainCohort(n_subjects=1, split="test", spacing=1.5, contrasts=("t2",)).subject(0)
volume = subject.images["t2"]
image = volume[:, :, volume.shape[2] // 2][None]
exam = SimulateKspaced(n_coils=(8,), noise=(0.01, 0.01), seed_key="case")({"case": subject.name, "magnitude": image})
print("k-space:", tuple(exam["kspace"].shape), exam["kspace"].dtype)

# %% [markdown]
# ## Which samples to leave out
#
# Masks are MONAI transforms. All keep the centre of k-space fully sampled: coil sensitivities are estimated there.

# %%
masks = {
    "random lines": RandomMask([0.08], [4]),
    "equispaced lines": EquispacedMask([0.08], [4]),
    "Poisson disc": PoissonDiscMask([0.04], [4]),
}


def undersampled(mask):
    """Under-sample the exam, and form what the network takes."""
    sample = dict(exam)
    for transform in (
        Undersampled(keys="kspace", mask=mask, seed_key="case"),
        SensitivityMapsd(),
        CoilCombined(),
        ScaleByPercentiled(),
        PackReconstructiond(),
    ):
        sample = transform(sample)
    return sample


samples = {name: undersampled(mask) for name, mask in masks.items()}
figure, axes = plt.subplots(2, len(samples), figsize=(9, 6))
for column, (name, sample) in enumerate(samples.items()):
    axes[0, column].imshow(sample["mask"][0].expand(image.shape[1:]), cmap="gray")
    axes[0, column].set_title(name)
    axes[1, column].imshow(sample["zero_filled"].abs()[0], cmap="gray")
for axis in axes.flat:
    axis.axis("off")
axes[1, 0].set_title("zero-filled images")
plt.show()

# %% [markdown]
# ## Reconstruct
#
# The released weights belong to the preset `base` with conjugate-gradient data consistency. `PackedReconstructor` lets
# the network take one real tensor: zero-filled image, mask and coil sensitivities as channels.

# %%
network = PackedReconstructor(CLGNet(preset="base", dc="cg", cg_iterations=4)).eval()
root = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / "bundles").is_dir())
network.load_state_dict(torch.load(root / "bundles" / "clgnet" / "models" / "model.pt", weights_only=True))


def reconstruct(sample):
    """Return the magnitude of the reconstruction, in the unit of the reference."""
    with torch.inference_mode():
        pred = network(sample["image"][None])
    return channels_to_complex(pred)[0, 0].abs() * sample["scale"]


for name, sample in samples.items():
    reference = sample["reference"].abs()
    before = psnr(sample["zero_filled"].abs().numpy(), reference.numpy())
    after = psnr(reconstruct(sample)[None].numpy(), reference.numpy())
    print(f"{name:17s} zero-filled {before:5.2f} dB   CLGNet {after:5.2f} dB")

# %% [markdown]
# ## Look at it
#
# A number hides where an image is wrong; an error map shows it. Where too little was measured, a network guesses.

# %%
sample = samples["random lines"]
reference = sample["reference"].abs()[0]
shown = {"fully sampled": reference, "zero-filled": sample["zero_filled"].abs()[0], "CLGNet": reconstruct(sample)}
figure, axes = plt.subplots(2, 3, figsize=(9, 6))
for column, (name, picture) in enumerate(shown.items()):
    axes[0, column].imshow(picture, cmap="gray", vmin=0, vmax=reference.max())
    axes[0, column].set_title(name)
    axes[1, column].imshow((picture - reference).abs(), cmap="inferno", vmin=0, vmax=reference.max() / 5)
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Now you
#
# 1. Measure half as much: `RandomMask([0.04], [8])`. Which anatomy is lost first?
# 2. Give the exam one coil, `n_coils=(1,)`. Why is the same mask harder now?
# 3. Put your own slice in: any magnitude image `(1, H, W)`, or k-space `(coil, H, W)` under the key `kspace`.
