"""The simulated cohort: replay, zero-mean velocities, known atlas, physics of its contrasts, caching, realism."""

import itertools
import math
import os
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medkit.data import BrainCohort
from medkit.data.cohort.anatomy import AnatomyFields, tissue_shares
from medkit.data.cohort.contrast import PulseSequence, signal
from medkit.data.cohort.deformation import displacement_on, draw_velocity, flow, shift_image
from medkit.data.cohort.geometry import Geometry
from medkit.data.cohort.lattice import Field, Grid, band_field, generator, lattice_shape, smooth_field
from medkit.data.cohort.shape import Shape


@pytest.fixture(scope="module")
def cache():
    """The template's level sets take seconds to compute: they are kept between runs of the tests."""
    return Path(os.environ.get("MEDKIT_CACHE") or Path(tempfile.gettempdir()) / "medkit-test-cache")


@pytest.fixture(scope="module")
def cohort(cache):
    return BrainCohort(3, spacing=4.0, cache_dir=cache)


@pytest.fixture(scope="module")
def subjects(cohort):
    return [cohort.subject(i) for i in range(3)]


def dice(a, b):
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_same_seed_gives_the_same_bits(cohort, cache, subjects):
    again = BrainCohort(3, spacing=4.0, cache_dir=cache).subject(1)
    for contrast, image in subjects[1].images.items():
        assert torch.equal(image, again.images[contrast])
    assert torch.equal(subjects[1].labels, again.labels)
    assert torch.equal(subjects[1].velocity, again.velocity)


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "test"}, {"split": "validation"}])
def test_other_seed_or_split_gives_another_head(subjects, cache, change):
    other = BrainCohort(3, **{"spacing": 4.0, "contrasts": ("t1",), "cache_dir": cache, **change}).subject(1)
    assert not torch.equal(other.images["t1"], subjects[1].images["t1"])
    assert (other.velocity - subjects[1].velocity).abs().max() > 0.2


def test_velocities_have_zero_mean(subjects):
    mean = torch.stack([s.velocity for s in subjects]).mean(0)
    assert mean.abs().max() < 1e-5
    assert max(float(s.velocity.abs().max()) for s in subjects) > 1.0


def test_single_subject_keeps_the_template_shape(cache):
    assert BrainCohort(1, spacing=8.0, contrasts=("pd",), cache_dir=cache).subject(0).velocity.abs().max() < 1e-6


def test_template_deformed_by_the_velocity_shows_the_subject(cohort, subjects):
    template = cohort.template.labels
    before, after = [], []
    for subject in subjects:
        moved = subject.velocity / 2**7
        identity = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in template.shape), indexing="ij"))
        scale = torch.tensor([2 / (n - 1) for n in template.shape]).view(3, 1, 1, 1)
        for _ in range(7):
            unit = ((identity + moved) * scale - 1).flip(0).permute(1, 2, 3, 0)[None]
            moved = moved + F.grid_sample(moved[None], unit, align_corners=True)[0]
        unit = ((identity + moved) * scale - 1).flip(0).permute(1, 2, 3, 0)[None]
        for name in ("ventricle", "thalamus", "putamen", "brainstem"):
            code = BrainCohort.LABELS[name]
            warped = F.grid_sample((template == code).float()[None, None], unit, align_corners=True)[0, 0] > 0.5
            before.append(dice(template == code, subject.labels == code))
            after.append(dice(warped, subject.labels == code))
    assert np.mean(after) > 0.65
    assert np.mean(after) > np.mean(before) + 0.1


def test_spacing_does_not_change_the_anatomy(cache, subjects):
    coarse = BrainCohort(3, spacing=8.0, contrasts=("t2",), cache_dir=cache).subject(0)
    fine = subjects[0]
    at = [
        np.rint((o8 + 8.0 * np.arange(n) - o4) / 4.0 - 0.5).astype(int)
        for o8, o4, n in zip(coarse.affine[:3, 3], fine.affine[:3, 3], coarse.labels.shape, strict=True)
    ]
    keep = [(a >= 0) & (a + 1 < n) for a, n in zip(at, fine.labels.shape, strict=True)]
    mask = fine.mask.float()
    pooled = torch.zeros([int(k.sum()) for k in keep])
    for step in itertools.product((0, 1), repeat=3):
        pooled += mask[np.ix_(*(a[k] + s for a, k, s in zip(at, keep, step, strict=True)))] / 8
    assert dice(pooled > 0.5, coarse.mask[np.ix_(*keep)]) > 0.93


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.5, 3.0, 4.0])
def test_grid_covers_the_head_in_multiples_of_eight(spacing):
    shape = BrainCohort(1, spacing=spacing).grid.shape
    assert all(n % 8 == 0 for n in shape)
    assert all(n * spacing >= side for n, side in zip(shape, (192, 232, 192), strict=True))


@pytest.mark.parametrize("spacing", [3.0, 4.0])
def test_affine_places_the_template(cache, spacing):
    cohort = BrainCohort(1, spacing=spacing, contrasts=("t1",), cache_dir=cache)
    template = cohort.template
    index = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in template.mask.shape), indexing="ij"), dim=-1)
    position = (
        index @ torch.from_numpy(cohort.affine[:3, :3]).float().T + torch.from_numpy(cohort.affine[:3, 3]).float()
    )
    brain = cohort._geometry.sample(position.permute(3, 0, 1, 2))["brain"] < 0
    assert (template.mask & brain).sum() > 0.995 * brain.sum()
    assert dice(template.mask, brain) > 0.93  # the mask also holds the fluid around


def test_blocks_leave_no_seams(cohort, subjects, monkeypatch):
    monkeypatch.setattr("medkit.data.cohort.brains.BLOCK", (1024, 1024, 1024))
    whole = cohort.subject(0)
    assert (whole.labels == subjects[0].labels).float().mean() > 0.999


def test_subject_is_what_it_says(cohort, subjects):
    for subject in subjects:
        assert set(subject.images) == {"t1", "t2", "pd", "flair"}
        for image in subject.images.values():
            assert image.dtype == torch.float32
            assert image.shape == subject.labels.shape == subject.mask.shape == cohort.grid.shape
            assert image.min() >= 0
            assert 0.5 < image.max() <= 1
        assert subject.labels.dtype == torch.uint8
        assert subject.mask.dtype == torch.bool
        assert subject.velocity.shape == (3, *cohort.grid.shape)
        volume = float(subject.mask.sum()) * 4.0**3 / 1000
        assert 1100 < volume < 2300  # ml of brain and fluid
    assert {int(v) for v in subjects[0].labels.unique()} <= set(BrainCohort.LABELS.values())


def test_contrasts_order_the_tissues_as_scanners_do(subjects):
    for subject in subjects:
        mean = {
            (contrast, name): float(image[subject.labels == BrainCohort.LABELS[name]].mean())
            for contrast, image in subject.images.items()
            for name in ("white_matter", "cortex", "ventricle", "air", "bone")
        }
        assert mean["t1", "white_matter"] > mean["t1", "cortex"] > mean["t1", "ventricle"]
        assert mean["t2", "ventricle"] > mean["t2", "cortex"] > mean["t2", "white_matter"]
        assert mean["flair", "cortex"] > mean["flair", "ventricle"]
        assert mean["pd", "cortex"] > mean["pd", "white_matter"]
        for contrast in subject.images:
            assert mean[contrast, "air"] < mean[contrast, "bone"] < mean[contrast, "white_matter"]


def test_signal_equations_reach_their_limits():
    assert signal(PulseSequence("spin_echo", 1e9, 0), 800, 80, 0.7) == pytest.approx(0.7)
    assert signal(PulseSequence("spin_echo", 1e9, 80), 800, 80, 1) == pytest.approx(math.exp(-1))
    assert signal(PulseSequence("inversion", 1e9, 0, ti=800 * math.log(2)), 800, 80, 1) == pytest.approx(0, abs=1e-9)
    right_angle = PulseSequence("gradient_echo", 500, 10, 90)
    assert signal(right_angle, 800, 80, 1) == pytest.approx(signal(PulseSequence("spin_echo", 500, 10), 800, 80, 1))
    best = math.degrees(math.acos(math.exp(-20 / 800)))  # Ernst's angle
    at = [signal(PulseSequence("gradient_echo", 20, 0, a), 800, 80, 1) for a in (best - 1, best, best + 1)]
    assert at[1] == max(at)


def test_tissue_shares_sum_to_one(cohort):
    shape = Shape(fold=1.5)
    grid = Grid(6.0)
    level = cohort._geometry.sample(grid.positions())
    shares = tissue_shares(level, grid.positions(), shape, AnatomyFields.draw(shape, generator(1)), grid)
    assert shares.min() >= 0
    assert torch.allclose(shares.sum(0), torch.ones(grid.shape), atol=1e-5)


def test_lesions_are_seen_and_labelled(cache, subjects):
    sick = BrainCohort(3, spacing=4.0, contrasts=("t2", "flair"), lesions=True, cache_dir=cache).subject(0)
    lesion = sick.labels == BrainCohort.LABELS["lesion"]
    assert lesion.sum() > 3
    white = sick.labels == BrainCohort.LABELS["white_matter"]
    assert sick.images["flair"][lesion].mean() > 1.15 * sick.images["flair"][white].mean()
    assert not (subjects[0].labels == BrainCohort.LABELS["lesion"]).any()
    alone = {}
    for contrast in ("t2", "flair"):
        other = (sick.images[contrast] - subjects[0].images[contrast]).abs() > 0.03
        alone[contrast] = other & ~F.max_pool3d(lesion[None].float(), 3, 1, 1)[0].bool()
    assert (alone["t2"] ^ alone["flair"]).any()  # each contrast has lesions of its own
    assert torch.equal(subjects[0].lesions, torch.zeros_like(subjects[0].labels))
    seen = BrainCohort.LESION_LABELS
    assert set(sick.lesions.unique().tolist()) == {0, seen["all"], seen["t2"], seen["flair"]}
    assert not ((sick.lesions == seen["all"]) & ~lesion).any()
    for contrast, other in (("t2", "flair"), ("flair", "t2")):
        here = sick.lesions == seen[contrast]
        assert alone[contrast][here].float().mean() > 0.6
        assert (
            alone[other][here & ~F.max_pool3d((sick.lesions == seen[other])[None].float(), 3, 1, 1)[0].bool()].sum()
            == 0
        )


def test_map_of_lesions_is_among_the_files(cache):
    cohort = BrainCohort(1, spacing=8.0, contrasts=("t2",), lesions=True, cache_dir=cache)
    (entry,) = cohort.datalist()
    assert list(entry) == ["case", "t2", "labels", "lesions"]
    on_disk = np.asarray(nibabel.load(entry["lesions"]).dataobj)
    np.testing.assert_array_equal(on_disk, cohort.subject(0).lesions.numpy())
    assert "lesions" not in BrainCohort(1, spacing=8.0, contrasts=("t2",), cache_dir=cache).datalist()[0]


def test_velocity_and_its_opposite_undo_each_other():
    velocity = draw_velocity((4.0, 1.5), "test")
    grid = Grid(4.0)
    there, back = displacement_on(grid, flow(velocity)), displacement_on(grid, flow(-velocity))
    assert there.abs().max() > 4
    size = torch.tensor(grid.shape).view(3, 1, 1, 1)
    identity = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in grid.shape), indexing="ij"))
    unit = ((identity + back / 4) * (2 / (size - 1)) - 1).flip(0).permute(1, 2, 3, 0)[None]
    total = back + F.grid_sample(there[None], unit, align_corners=True)[0]
    assert total[:, 6:-6, 6:-6, 6:-6].abs().max() < 0.6


def test_constant_velocity_moves_by_itself():
    velocity = torch.full((3, *lattice_shape(8.0)), 3.0)
    assert torch.allclose(flow(velocity)[:, 8:-8, 8:-8, 8:-8], torch.tensor(3.0), atol=1e-4)


@pytest.mark.parametrize("draw", [lambda g: smooth_field(20.0, g, 4), lambda g: band_field(16.0, g, 2)])
def test_random_fields_have_unit_variance(draw):
    values = draw(generator("variance")).on(Grid(4.0))
    assert float(values.square().mean()) == pytest.approx(1.0, abs=0.25)


def test_block_of_a_field_is_cut_from_the_whole():
    field = band_field(16.0, generator("block"))
    block = Grid(4.0, first=(5, 7, 9), count=(10, 11, 12))
    assert torch.allclose(field.on(block), field.on(Grid(4.0))[:, 5:15, 7:18, 9:21], atol=1e-4)


def test_spline_of_a_line_is_the_line():
    points = Grid(5.0, lattice_shape(5.0)).positions()
    assert torch.allclose(Field(points, 5.0).on(Grid(3.0)), Grid(3.0).positions(), atol=1e-3)


def test_shift_moves_by_whole_and_half_voxels():
    image = torch.arange(30.0).view(10, 3, 1).expand(10, 3, 8).contiguous()
    assert torch.allclose(shift_image(image, (2, 0, 0))[4:], image[2:-2])
    assert torch.allclose(shift_image(image, (0.5, 0, 0))[3:8], image[3:8] - 1.5, atol=1e-4)


def test_misalignment_moves_all_contrasts_but_the_first(cache, subjects):
    options = {"spacing": 4.0, "contrasts": ("t1", "t2"), "cache_dir": cache}
    moved = BrainCohort(3, misalignment=2.0, **options).subject(0)
    assert torch.equal(moved.images["t1"], subjects[0].images["t1"])
    assert not torch.allclose(moved.images["t2"], subjects[0].images["t2"], atol=0.02)


def test_files_hold_the_subjects_and_are_written_once(cohort, subjects, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(BrainCohort, "_geometry", cohort._geometry, raising=False)
    on_disk = BrainCohort(3, spacing=4.0, cache_dir=tmp_path)
    entries = on_disk.datalist()
    assert [e["case"] for e in entries] == ["train-0000", "train-0001", "train-0002"]
    image = nibabel.load(entries[2]["t2"])
    assert np.allclose(image.affine, on_disk.affine)
    assert np.allclose(image.get_fdata(dtype=np.float32), subjects[2].images["t2"].numpy(), atol=1e-6)
    labels = np.asarray(nibabel.load(entries[2]["labels"]).dataobj)
    assert np.array_equal(labels, subjects[2].labels.numpy())
    assert not list(on_disk.folder.glob(".part-*"))

    def never(*_):
        raise AssertionError("generated twice")

    monkeypatch.setattr(BrainCohort, "subject", never)
    assert on_disk.datalist() == entries


def test_interrupted_write_leaves_no_subject(cohort, subjects, tmp_path, monkeypatch):
    on_disk = BrainCohort(1, spacing=4.0, cache_dir=tmp_path)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(BrainCohort, "subject", lambda *_: subjects[0])
    monkeypatch.setattr(nibabel, "save", full)
    with pytest.raises(OSError, match="disk full"):
        on_disk.datalist()
    assert list(on_disk.folder.iterdir()) == []


def test_folder_depends_on_every_parameter(tmp_path):
    options = {"n_subjects": 2, "cache_dir": tmp_path}
    changes = [
        {},
        {"seed": 1},
        {"split": "test"},
        {"spacing": 2.0},
        {"contrasts": ("t1",)},
        {"lesions": True},
        {"misalignment": 1.0},
        {"n_subjects": 3},
    ]
    folders = {BrainCohort(**{**options, **change}).folder for change in changes}
    assert len(folders) == len(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_subjects": 0}, "'n_subjects'"),
        ({"split": "training"}, "'split'"),
        ({"spacing": 0.1}, "'spacing'"),
        ({"contrasts": ("t3",)}, "'contrasts'"),
        ({"contrasts": "t1"}, "'contrasts'"),
        ({"contrasts": ()}, "'contrasts'"),
        ({"misalignment": -1.0}, "'misalignment'"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        BrainCohort(**{"n_subjects": 2, **change})


def test_subject_out_of_range_is_an_error(cohort):
    with pytest.raises(ValueError, match="'i' must be 0 to 2, got 3"):
        cohort.subject(3)


def radial_spectrum(image):
    """Logarithm (base 10) of the power in 24 rings from 0.02 to 0.5 cycles per pixel, of a windowed slice."""
    image = image / np.percentile(image, 99.5)
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2(image * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    edges = np.linspace(0.02, 0.5, 25)
    rings = [power[(radius >= a) & (radius < b)].mean() for a, b in itertools.pairwise(edges)]
    return (edges[1:] + edges[:-1]) / 2, np.log10(rings)


def head_only(image):
    rows, columns = (image > 0.08 * np.percentile(image, 99.5)).nonzero()
    top, left = max(rows.min() - 4, 0), max(columns.min() - 4, 0)
    return image[top : rows.max() + 5, left : columns.max() + 5]


@pytest.mark.real
def test_power_spectrum_is_near_that_of_real_t2_images(real_data, cache):
    """Rings of 12 real T2 slices at about 0.9 mm against a subject at 1 mm.

    The slopes (decades of power per decade of frequency) differ by less than 0.4; after a common factor, the curves
    differ by less than a fifth of a decade (root mean square) over all frequencies up to 0.5 cycles per pixel.
    """
    file = real_data / "mri_recon" / "derived" / "siat_t2_complex64.npz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with np.load(file) as stored:
        real = [np.abs(image) for image in stored["images"]]
    subject = BrainCohort(2, spacing=1.0, contrasts=("t2",), cache_dir=cache).subject(0)
    simulated = [subject.images["t2"][:, :, k].numpy() for k in range(50, 150, 10)]
    frequency, real_curve = radial_spectrum(head_only(real[0]))
    real_curve = np.mean([radial_spectrum(head_only(s))[1] for s in real], axis=0)
    curve = np.mean([radial_spectrum(head_only(s))[1] for s in simulated], axis=0)
    middle = (frequency > 0.05) & (frequency < 0.45)
    slopes = [np.polyfit(np.log10(frequency[middle]), c[middle], 1)[0] for c in (real_curve, curve)]
    assert abs(slopes[0] - slopes[1]) < 0.4
    assert np.std(curve - real_curve) < 0.2


def test_geometry_keeps_far_structures_far():
    geometry = Geometry(torch.zeros(2, *Grid(1.0).shape), torch.full((10, *Grid(2.0).shape), 30.0))
    level = geometry.sample(Grid(8.0).positions())
    assert level["white"].min() == 20.0  # nothing fine is read far from the brain
