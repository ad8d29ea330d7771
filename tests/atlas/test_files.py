"""Files in, files out: two images registered, and images brought through a subject's transformations and back."""

import json
import logging

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from medkit.atlas import Frame, RegistrationModel, apply_transformation, register_files, write_transforms
from medkit.cli import main
from tests.atlas.phantom import cohort, correlation
from tests.atlas.small_atlas import small_atlas

SIZE = (28, 32, 28)
MOVED = np.array([[-2.0, 0.2, 0, 40], [0.2, 2.0, 0, -30], [0, 0, 2.0, -25], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    truth, images, _ = cohort(SIZE, 2, amplitude=1.0, width=4.0)
    nibabel.save(nibabel.Nifti1Image(100 * truth[0, 0].numpy(), np.diag([2.0, 2.0, 2.0, 1.0])), folder / "fixed.nii")
    nibabel.save(nibabel.Nifti1Image(50 * images[0, 0].numpy(), np.diag([2.0, 2.0, 2.0, 1.0])), folder / "moving.nii")
    return folder


def test_a_pair_is_registered_and_itk_applies_what_was_written(pair, tmp_path):
    register_files(pair / "fixed.nii", pair / "moving.nii", tmp_path, factors=(2, 1), n_steps=(20, 10), composite=True)
    record = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]
    assert record["case"] == "moving"
    assert record["registered"]["ncc"] > record["affine"]["ncc"]
    assert record["registered"]["ncc"] > 0.98
    assert record["registered"]["folded_percent"] == 0
    assert (tmp_path / "preview.png").read_bytes()[:4] == b"\x89PNG"
    itk = SimpleITK.Resample(
        SimpleITK.ReadImage(str(pair / "moving.nii")),
        SimpleITK.ReadImage(str(pair / "fixed.nii")),
        SimpleITK.ReadTransform(str(tmp_path / "Composite.h5")),
        SimpleITK.sitkLinear,
        0.0,
    )
    theirs = SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0)
    ours = np.asarray(nibabel.load(tmp_path / "warped.nii.gz").dataobj)
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=50 * 1e-4)


def test_the_command_registers_and_refuses(pair, tmp_path, capsys):
    names = [str(pair / "fixed.nii"), str(pair / "moving.nii"), str(tmp_path / "out")]
    assert main(["register", *names, "--alignment", "none", "--sigma", "0.1"]) == 0
    assert (tmp_path / "out" / "1Warp.nii.gz").exists()
    assert "wrote into" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'alignment' must be one of"):
        register_files(*names, alignment="similar")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        register_files(pair / "none.nii", names[1], tmp_path)


def test_an_alignment_that_failed_is_told(pair, tmp_path, caplog):
    image = nibabel.load(pair / "fixed.nii")
    noise = np.random.default_rng(0).random(image.shape, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, image.affine), tmp_path / "noise.nii")
    for name, told in ((pair / "moving.nii", 0), (tmp_path / "noise.nii", 1)):
        caplog.clear()
        register_files(pair / "fixed.nii", name, tmp_path / "out", factors=(1,), n_steps=(0,))
        assert caplog.text.count(f"the alignment of {name} failed: ") == told


@pytest.fixture
def kept_logging():
    """A bundle that runs in this process sets up logging; what comes after wants it as it was."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.usefixtures("kept_logging")
def test_the_bundle_registers_as_the_function_does(pair, tmp_path):
    names = {"fixed": str(pair / "fixed.nii"), "moving": str(pair / "moving.nii")}
    words = ["--factors", "[1]", "--n_steps", "[3]", "--alignment", "none", "--device", "cpu"]
    given = [word for name, path in names.items() for word in (f"--{name}", path)]
    line = ["run", "hybrid_atlas", "register", *given, *words]
    assert main([*line, "--output_dir", str(tmp_path / "plain")]) == 0
    register_files(**names, output_dir=tmp_path / "same", factors=(1,), n_steps=(3,), alignment="none",
                   model=RegistrationModel(sigma=0.01))  # fmt: skip
    plain, same = (nibabel.load(tmp_path / name / "1Warp.nii.gz").get_fdata() for name in ("plain", "same"))
    np.testing.assert_array_equal(plain, same)
    assert main([*line, "--output_dir", str(tmp_path / "prior"), "--use_prior", "True"]) == 0
    begun = nibabel.load(tmp_path / "prior" / "1Warp.nii.gz").get_fdata()
    assert np.abs(begun - plain).max() > 1e-3, "the prior started it elsewhere"
    with pytest.raises(ValueError, match="'fixed' and 'moving' must be NIfTI files, got None"):
        register_files(None, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_lies_elsewhere_is_refused_before_anything_is_written(pair, tmp_path):
    stored = nibabel.load(pair / "moving.nii")
    affine = stored.affine.copy()
    affine[0, 3] += 2000
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj), affine), tmp_path / "far.nii")
    with pytest.raises(ValueError, match=r"nothing of .*far.nii lies where .*fixed.nii is; .* let 'alignment' be"):
        register_files(pair / "fixed.nii", tmp_path / "far.nii", tmp_path / "out", alignment="none")
    with pytest.raises(ValueError, match="'output_dir' must be a folder"):
        register_files(pair / "fixed.nii", pair / "moving.nii", tmp_path / "far.nii")
    with pytest.raises(ValueError, match="'sigma' must be a number above 0, got -1"):
        main(["register", str(pair / "fixed.nii"), str(pair / "moving.nii"), str(tmp_path / "out"), "--sigma", "-1"])
    atlas = small_atlas(tmp_path / "atlas", n=2)
    write_transforms(atlas)
    for words in ([], ["--inverse"]):
        line = ["atlas", "apply", str(atlas.folder), "s0", str(tmp_path / "far.nii"), str(tmp_path / "o.nii"), *words]
        with pytest.raises(ValueError, match=r"nothing of .*far.nii lies where (the image of 's0'|the template) is"):
            main(line)
    assert {path.name for path in tmp_path.iterdir()} == {"far.nii", "atlas"}


def test_an_image_comes_to_the_template_and_back(tmp_path):
    atlas = small_atlas(tmp_path)
    write_transforms(atlas)
    member = atlas.members[0]
    image = next(iter(member.subject.images.values()))
    apply_transformation(atlas, member.name, image, tmp_path / "there.nii.gz")
    warped = next((atlas.folder / "subjects").glob(f"{member.name}*_warped.nii.gz"))
    there = np.asarray(nibabel.load(tmp_path / "there.nii.gz").dataobj)
    np.testing.assert_allclose(there, np.asarray(nibabel.load(warped).dataobj), atol=1e-4)
    apply_transformation(atlas, member.name, tmp_path / "there.nii.gz", tmp_path / "back.nii.gz", inverse=True)
    back, first = (torch.from_numpy(np.asarray(nibabel.load(p).dataobj, np.float32)) for p in (tmp_path / "back.nii.gz",
                                                                                              image))  # fmt: skip
    assert back.shape == first.shape
    assert Frame(tuple(back.shape), nibabel.load(tmp_path / "back.nii.gz").affine).shares_grid_with(
        Frame(tuple(first.shape), nibabel.load(image).affine)
    )
    assert correlation(back, first) > 0.98
    with pytest.raises(ValueError, match="'output' must be a NIfTI file"):
        apply_transformation(atlas, member.name, image, tmp_path / "x.png")
    with pytest.raises(ValueError, match="there is no subject 'nobody'"):
        apply_transformation(atlas, "nobody", image, tmp_path / "x.nii.gz")
