# %% [markdown]
# # From a cohort to its atlas
#
# An atlas is the image that a cohort has in common, with the transformations between it and each subject. We build one
# of simulated heads, whose true template is known, look at both, add a new head, bring images through the
# transformations with SimpleITK, and ask for the template of an age. Needs no data and no GPU (`pip install -e
# '.[atlas,tutorials]'`); takes about a minute.

# %%
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import SimpleITK
import torch

from medkit.atlas import (
    AtlasSettings,
    Frame,
    HybridAtlas,
    RegistrationModel,
    add_subject,
    conditional_template,
    list_subjects,
    resampled,
)
from medkit.data import BrainCohort

logging.basicConfig(level=logging.WARNING)

# %% [markdown]
# ## A cohort
#
# `BrainCohort` deforms the ICBM 152 template; the deformations have no mean, so that the template is the truth. Voxels
# of 6 mm are coarse, but quick. With `list_subjects("brains/*.nii.gz")` the rest of this page works on your own files.
# The ages are made up: the larger the brain, the younger.

# %%
options = {"spacing": 6.0, "contrasts": ("t1",)}
cohort = BrainCohort(4, "test", **options)
subjects = list_subjects(None, cohort=cohort)
volumes = [int((np.asarray(nibabel.load(subject.mask).dataobj) > 0).sum()) for subject in subjects]
ages = [80 - 15 * int(rank) for rank in np.argsort(np.argsort(volumes))]
subjects = [replace(subject, attributes={"age": float(age)}) for subject, age in zip(subjects, ages, strict=True)]
for subject, volume in zip(subjects, volumes, strict=True):
    print(f"{subject.name}: brain of {volume * 0.216:.0f} ml, {subject.attributes['age']:.0f} years")

# %% [markdown]
# ## Build
#
# Rounds at half and at full resolution: every subject moves a little nearer to the template, then the template follows.
# `sigma` says how closely images are matched: the subjects' contrasts differ, and noise should not be. They share a
# space, so that no affine alignment goes before. A run that is stopped goes on when it is started again.

# %%
settings = AtlasSettings(
    model=RegistrationModel(sigma=0.03),
    alignment="none",
    factors=(2, 1),
    n_rounds=(3, 2),
    n_steps=(8, 5),
    n_template_steps=(0, 1),
    n_final_steps=1,
)
folder = Path(mkdtemp()) / "atlas"
atlas = HybridAtlas(folder, settings, report=False).build(subjects)
print("energies:", ", ".join(f"{row['energy']:.3g}" for row in atlas.trace if row["step"] == "template"))
print("files:", ", ".join(sorted(path.name for path in folder.iterdir())))

# %% [markdown]
# ## The template beside the truth
#
# The mean of the subjects is blurred where they differ. The template should be sharper, and as near to the truth.

# %%
true = cohort.template
grid = Frame(tuple(true.labels.shape), true.affine)
truth = resampled((true.images["t1"] * true.mask)[None, None], grid, atlas.frame, padding="zeros")[0, 0]
template = atlas.template()[0, 0]
mean = torch.stack([atlas.aligned(member)[0][0, 0] for member in atlas.members]).mean(0)


def show(pictures):
    """Show axial and coronal slices of volumes, the patient's right on the left; of differences in colours."""
    _, axes = plt.subplots(2, len(pictures), figsize=(2.6 * len(pictures), 6))
    for column, (name, volume) in enumerate(pictures.items()):
        _, y, z = volume.shape
        top = float(volume.abs().max())
        look = {"cmap": "RdBu_r", "vmin": -top, "vmax": top} if "−" in name else {"cmap": "gray", "vmin": 0}
        axes[0, column].imshow(volume[:, :, z // 2].T.flip((0, 1)), **look)
        axes[1, column].imshow(volume[:, y // 2].T.flip((0, 1)), **look)
        axes[0, column].set_title(name)
    for axis in axes.flat:
        axis.axis("off")
    plt.show()


show({"one subject": atlas.aligned(atlas.members[0])[0][0, 0], "mean": mean, "template": template, "truth": truth})
brain = truth > 0.05
for name, image in (("mean", mean), ("template", template)):
    likeness = np.corrcoef(image[brain], truth[brain])[0, 1]
    slope = torch.stack(torch.gradient(image)).square().sum(0).sqrt()[brain].mean() / image[brain].mean()
    print(f"{name:9s} correlation with the truth in the brain {likeness:.3f}, relative sharpness {slope:.3f}")

# %% [markdown]
# ## A new head
#
# It is registered to the template, which stays as it is, and gets the template's labels. Its own labels show how good
# they are.

# %%
new = list_subjects(None, cohort=BrainCohort(1, "validation", **options))[0]
member = add_subject(atlas, new)
found = np.asarray(nibabel.load(folder / "subjects" / f"{new.name}_labels.nii.gz").dataobj)
own = np.asarray(nibabel.load(new.labels).dataobj)
for label, name in {value: name for name, value in cohort.LABELS.items()}.items():
    if label and (own == label).sum() > 200:
        dice = 2 * ((own == label) & (found == label)).sum() / ((own == label).sum() + (found == label).sum())
        print(f"{name:20s} Dice {dice:.2f}")

# %% [markdown]
# ## Transformations in other programs
#
# They are files that ITK, ANTs and 3D Slicer read. What SimpleITK makes of them is what we wrote.

# %%
name = atlas.members[0].name
warp = SimpleITK.DisplacementFieldTransform(
    SimpleITK.ReadImage(str(folder / "subjects" / f"{name}_1Warp.nii.gz"), SimpleITK.sitkVectorFloat64)
)
affine = SimpleITK.ReadTransform(str(folder / "subjects" / f"{name}_0GenericAffine.mat"))
whole = SimpleITK.CompositeTransform([affine, warp])  # the last one is applied first
image = SimpleITK.ReadImage(atlas.members[0].subject.images["t1"], SimpleITK.sitkFloat32)
reference = SimpleITK.ReadImage(str(folder / "atlas.nii.gz"))
core = SimpleITK.GetImageFromArray(np.pad(np.ones([n - 2 for n in image.GetSize()[::-1]], np.float32), 1))
core.CopyInformation(image)  # without the file's last voxels, beyond which programs differ in what they assume
theirs, is_core = (
    SimpleITK.GetArrayFromImage(SimpleITK.Resample(x, reference, whole, SimpleITK.sitkLinear, 0.0)).T
    for x in (image, core)
)
ours = np.asarray(nibabel.load(folder / "subjects" / f"{name}_warped.nii.gz").dataobj)
inside = (template.numpy() > 0.05) & (is_core > 0.999)
print(f"largest difference in the brain {np.abs(theirs - ours)[inside].max():.1e}, intensities up to {ours.max():.2f}")

# %% [markdown]
# ## The template of an age
#
# Subjects count by how near their age is; their mean shape is that of the template. Nothing is registered anew.

# %%
young, old = (conditional_template(atlas, "age", age, bandwidth=12.0).template[0, 0] for age in (35.0, 80.0))
show({"35 years": young, "80 years": old, "old − young": old - young})
for name, image in (("35 years", young), ("80 years", old)):
    print(f"{name}: {int((image > 0.1).sum()) * 0.216:.0f} ml")

# %% [markdown]
# ## Now you
#
# 1. Make `sigma` smaller. The subjects are matched more closely; does the template come nearer to the truth?
# 2. Give `HybridAtlas` `report=True`, and open `report.html` in the folder.
# 3. Judge the atlas by subjects that it has not seen: `medkit run hybrid_atlas evaluate --output_dir <folder>`.
