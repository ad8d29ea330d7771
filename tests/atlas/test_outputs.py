"""Files of an atlas: other programs apply its transformations, and its template follows from them alone."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from medkit.atlas import AtlasFolder, Frame
from medkit.atlas.outputs import estimate_template, recompute_template, write_transforms
from medkit.atlas.outputs.saved_transforms import log_jacobian, read_forward, read_inverse
from medkit.atlas.result import bring
from medkit.ops import compose, identity_points, jacobian_determinant
from tests.atlas.phantom import correlation, intensity
from tests.atlas.small_atlas import BRIGHT, save, small_atlas

SIZE = (24, 26, 28)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    made = small_atlas(tmp_path_factory.mktemp("outputs") / "atlas", SIZE, noise=0.02)
    write_transforms(made, composite=True)
    recompute_template(made)
    return made


def load(path):
    return torch.from_numpy(np.asarray(nibabel.load(path).dataobj, np.float32))


def estimated(atlas, members=None, **options):
    return estimate_template(atlas, atlas.members if members is None else members, lambda m: read_forward(atlas, m),
                             lambda m: read_inverse(atlas, m), atlas.n_final_steps, **options)  # fmt: skip


def read_back(atlas, member):
    placed, forward = read_forward(atlas, member)
    return placed, atlas.contrasts, atlas.frame, forward


def repeated(atlas, tmp_path, scale, shift):
    """The atlas with intensities of all files mapped to ``scale * I + shift``."""
    members = []
    for m in atlas.members:
        file = nibabel.load(m.subject.images["image"])
        path = tmp_path / f"{m.name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(scale * file.get_fdata() + shift, file.affine), path)
        members.append(replace(m, subject=replace(m.subject, images={"image": str(path)})))
    return members


# Transformations in files


@pytest.mark.parametrize("composite", [False, True])
def test_simpleitk_makes_the_warped_images_of_the_files(atlas, composite):
    sitk = pytest.importorskip("SimpleITK")
    folder = atlas.folder / "subjects"
    for member in atlas.members:
        if composite:
            transform = sitk.ReadTransform(str(folder / f"{member.name}_Composite.h5"))
        else:
            field = sitk.ReadImage(str(folder / f"{member.name}_1Warp.nii.gz"), sitk.sitkVectorFloat64)
            transform = sitk.CompositeTransform(3)
            transform.AddTransform(sitk.ReadTransform(str(folder / f"{member.name}_0GenericAffine.mat")))
            transform.AddTransform(sitk.DisplacementFieldTransform(field))
        image = sitk.ReadImage(member.subject.images["image"], sitk.sitkFloat64)
        reference = sitk.ReadImage(str(atlas.folder / "atlas.nii.gz"))
        ours = load(folder / f"{member.name}_warped.nii.gz").numpy()
        theirs, seen = (
            sitk.GetArrayFromImage(sitk.Resample(x, reference, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat64))
            for x in (image, image * 0 + 1)
        )
        # At the very edge of a file ITK repeats its last voxel and we fade to background.
        difference = np.abs(ours - theirs.T)[binary_erosion(seen.T > 0, iterations=2)]
        assert len(difference) > 0.5 * ours.size
        assert difference.max() < 1e-6 * BRIGHT


def test_antspy_makes_the_warped_images_of_the_files(atlas):
    ants = pytest.importorskip("ants")
    folder, member = atlas.folder / "subjects", atlas.members[1]
    files = [str(folder / f"{member.name}_{part}") for part in ("1Warp.nii.gz", "0GenericAffine.mat")]
    theirs = ants.apply_transforms(
        ants.image_read(str(atlas.folder / "atlas.nii.gz")), ants.image_read(member.subject.images["image"]), files
    ).numpy()
    ours = load(folder / f"{member.name}_warped.nii.gz").numpy()
    assert np.abs(ours - theirs)[6:-6, 6:-6, 6:-6].max() < 1e-6 * BRIGHT


def test_subjects_pulled_to_the_template_are_the_template(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE)
    write_transforms(atlas)
    truth = intensity(identity_points(SIZE), SIZE)
    for member in atlas.members:
        warped = load(atlas.folder / "subjects" / f"{member.name}_warped.nii.gz")[None, None] / BRIGHT
        assert correlation(warped, truth) > 0.99
        unmoved, _ = bring(member, atlas.contrasts, atlas.frame)
        assert correlation(unmoved, truth) < correlation(warped, truth) - 0.005


def test_inverse_warps_undo_warps(atlas):
    for member in atlas.members:
        left = compose(read_forward(atlas, member)[1], read_inverse(atlas, member))[..., 4:-4, 4:-4, 4:-4]
        assert left.abs().mean() < 0.01
        assert left.abs().max() < 0.1


def test_log_jacobians_are_of_the_warp_and_smoothing_keeps_constants(atlas):
    member = atlas.members[0]
    _, forward = read_forward(atlas, member)
    found = load(atlas.folder / "subjects" / f"{member.name}_log_jacobian.nii.gz")
    torch.testing.assert_close(found.exp()[None, None], jacobian_determinant(forward), atol=1e-5, rtol=1e-5)
    points = identity_points(SIZE)
    grown = log_jacobian(0.1 * points, atlas.frame, smoothing=3.0)
    torch.testing.assert_close(grown, torch.full_like(grown, 3 * np.log(1.1)), atol=1e-4, rtol=0)
    smooth = log_jacobian(forward, atlas.frame, smoothing=8.0)
    assert smooth.std() < 0.75 * found.std()


# The template


def test_the_template_is_a_function_of_the_files(atlas):
    before = (atlas.folder / "atlas.nii.gz").read_bytes()
    first = load(atlas.folder / "atlas.nii.gz")
    again = recompute_template(AtlasFolder(atlas.folder))
    torch.testing.assert_close(again.template[0, 0], first, atol=1e-6, rtol=0)
    torch.testing.assert_close(load(atlas.folder / "atlas.nii.gz"), first, atol=0, rtol=0)
    assert len(before) == len((atlas.folder / "atlas.nii.gz").read_bytes())
    # Its velocities may be gone.
    moved = atlas.folder / "velocities"
    moved.rename(atlas.folder / "elsewhere")
    torch.testing.assert_close(recompute_template(atlas).template, again.template, atol=0, rtol=0)
    (atlas.folder / "elsewhere").rename(moved)


def test_the_template_is_near_the_truth_and_steps_help(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE)
    write_transforms(atlas)
    truth = intensity(identity_points(SIZE), SIZE)

    def error(template):
        return float((template - truth).square().mean().sqrt())

    found = estimated(atlas)
    mean = estimate_template(
        atlas, atlas.members, lambda m: read_forward(atlas, m), lambda m: read_inverse(atlas, m), 0
    )
    unmoved = torch.cat([bring(m, atlas.contrasts, atlas.frame)[0] for m in atlas.members]).mean(0, keepdim=True)
    assert error(found.template) < 0.8 * error(mean.template) < 0.6 * error(unmoved)
    assert error(found.template) < 0.01
    assert found.std.shape == found.weight.shape == truth.shape
    changes = sum(jacobian_determinant(read_forward(atlas, m)[1]) for m in atlas.members)
    torch.testing.assert_close(found.weight, changes, atol=1e-5, rtol=0)
    # Form B: the plain mean, which no step improves.
    atlas.model = replace(atlas.model, form="template")
    plain = estimated(atlas)
    pulled = torch.cat([bring(*read_back(atlas, m))[0] for m in atlas.members])
    torch.testing.assert_close(plain.template, pulled.mean(0, keepdim=True), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.std, pulled.std(0, correction=0)[None], atol=1e-5, rtol=0)


def test_order_repetition_and_intensities_of_subjects(atlas, tmp_path):
    expected = estimated(atlas)
    turned = estimated(atlas, atlas.members[::-1])
    torch.testing.assert_close(turned.template, expected.template, atol=1e-6, rtol=0)
    twice = estimated(atlas, [*atlas.members, *atlas.members])
    torch.testing.assert_close(twice.template, expected.template, atol=1e-6, rtol=0)
    torch.testing.assert_close(twice.std, expected.std, atol=1e-5, rtol=0)
    torch.testing.assert_close(twice.weight, 2 * expected.weight, atol=1e-5, rtol=0)
    # Half as bright and lifted, in the same window: the template is too. Clipped nowhere, known everywhere.
    free = [replace(m, intensities={"image": (-500.0, 2000.0)}) for m in atlas.members]
    whole = [replace(m, is_whole={"image": False}) for m in free]
    other = [replace(m, intensities=w.intensities, is_whole=w.is_whole)
             for m, w in zip(repeated(atlas, tmp_path, 0.5, 200.0), whole, strict=True)]  # fmt: skip
    plain, changed = estimated(atlas, whole), estimated(atlas, other)
    mapped = 0.5 * plain.template + (0.5 * -500.0 + 200.0 + 500.0) / 2500.0
    seen = plain.weight > 0.01
    torch.testing.assert_close(changed.template[seen], mapped[seen], atol=2e-6, rtol=0)


def test_what_does_not_count_changes_nothing(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, weighted=1, noise=0.02)
    write_transforms(atlas)
    subject = atlas.members[1].subject
    file, weight = nibabel.load(subject.images["image"]), nibabel.load(subject.weight).get_fdata()
    values = np.asarray(file.dataobj)
    bad = np.where(weight == 0, np.float32(900) * np.random.default_rng(0).random(values.shape), values)
    head = values > 0.05 * BRIGHT
    assert 0.2 < (weight[head] == 0).mean() < 0.6
    path = save(tmp_path / "bad.nii.gz", bad.astype(np.float32), Frame(file.shape, file.affine))
    broken = replace(atlas.members[1], subject=replace(subject, images={"image": path}))
    expected = estimated(atlas)
    found = estimated(atlas, [atlas.members[0], broken, atlas.members[2]])
    torch.testing.assert_close(found.template, expected.template, atol=1e-6, rtol=0)
    unweighted = replace(broken, subject=replace(broken.subject, weight=None))
    worse = estimated(atlas, [atlas.members[0], unweighted, atlas.members[2]])
    assert (worse.template - expected.template).abs().max() > 0.1


def test_subjects_without_a_contrast_do_not_count_in_it(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, contrasts=("t1", "t2"), lacking=((2, "t2"),))
    write_transforms(atlas)
    found = recompute_template(atlas)
    names = {p.name for p in Path(atlas.folder).glob("*.nii.gz")}
    assert names == {f"atlas_{c}{part}.nii.gz" for c in ("t1", "t2") for part in ("", "_std", "_weight")}
    rest = estimated(atlas, atlas.members[:2])
    torch.testing.assert_close(found.template[:, 1], rest.template[:, 1], atol=1e-6, rtol=0)
    assert (found.template[:, 0] - rest.template[:, 0]).abs().max() > 1e-3
    assert float(found.weight[:, 1].mean()) < 0.75 * float(found.weight[:, 0].mean())
    assert (atlas.folder / "subjects" / "s0_t2_warped.nii.gz").is_file()
    assert not (atlas.folder / "subjects" / "s2_t2_warped.nii.gz").exists()


def test_a_symmetric_template_is_its_mirror_image(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, symmetric=True, noise=0.02)
    write_transforms(atlas)
    found = recompute_template(atlas)
    for image in (found.template, found.std, found.weight):
        torch.testing.assert_close(image, image.flip(2), atol=1e-6, rtol=0)
    atlas.symmetric = False
    other = recompute_template(atlas).template
    assert (other - other.flip(2)).abs().max() > 1e-2


def test_what_lies_beyond_an_image_is_unknown(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, whole=False)
    write_transforms(atlas)
    found = recompute_template(atlas)
    truth = intensity(identity_points(SIZE), SIZE)
    seen = found.weight > 1
    assert 0.05 < 1 - float(seen.float().mean())
    assert (found.template - truth)[seen].square().mean().sqrt() < 0.02


# Errors


def test_missing_and_foreign_files_are_named(atlas, tmp_path):
    with pytest.raises(ValueError, match="'smoothing' must be at least 0"):
        write_transforms(atlas, smoothing=-1.0)
    bare = small_atlas(tmp_path / "bare", SIZE, n=2)
    with pytest.raises(FileNotFoundError, match="0GenericAffine"):
        recompute_template(bare)
    write_transforms(bare)
    bare.frame = bare.frame.padded(((1, 0), (0, 0), (0, 0)))
    with pytest.raises(ValueError, match="must lie on the grid of the atlas"):
        recompute_template(bare)
