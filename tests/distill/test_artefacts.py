"""The simulated task: replayed, balanced, one way for all classes, other subjects in each split, and not too easy."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medkit.data import BrainCohort
from medkit.distill import ArtefactSlices, artefacts
from medkit.distill.artefacts import ARTEFACTS, RANGES


@pytest.fixture(scope="module")
def slices():
    return ArtefactSlices(2, "validation", n_subjects=1, spacing=8.0)


def test_slices_are_replayed_and_depend_on_their_number_alone(slices):
    again = ArtefactSlices(2, "validation", n_subjects=1, spacing=8.0)
    for i in (0, 7, 33):
        (one, severity), (other, same) = slices.draw(i), again.draw(i)
        np.testing.assert_array_equal(one, other)
        assert severity == same or (np.isnan(severity) and np.isnan(same))
    assert not np.array_equal(slices.draw(0)[0], slices.draw(32)[0])
    assert np.isnan(slices.draw(8)[1]), "a clean slice has no severity"
    assert 0 <= slices.draw(9)[1] <= 1


def test_file_holds_every_class_equally_often(slices):
    with np.load(slices.write(), allow_pickle=False) as file:
        assert np.bincount(file["labels"]).tolist() == [2] * 32
        assert file["images"].shape == (64, 64, 64)
        assert file["images"].dtype == np.uint8
        assert file["class_names"][3] == "T1 spike"
        clean = np.isnan(file["severities"])
        assert {ARTEFACTS[label % 8] for label in file["labels"][clean]} == {"clean"}
        assert np.array_equal(clean, file["labels"] % 8 == 0)
        assert all(name.startswith("validation-0000") for name in file["cases"])
        np.testing.assert_array_equal(file["images"][40], slices.draw(40)[0])


def test_splits_share_neither_subjects_nor_ranges():
    assert len({dataclasses.astuple(ranges) for ranges in RANGES.values()}) == 3
    folders = {ArtefactSlices(1, split, spacing=8.0).cohort.folder for split in RANGES}
    assert len(folders) == 3
    assert len({ArtefactSlices(n, "test").path for n in (1, 2)}) == 2


def test_no_class_is_given_away_by_its_grey_values_alone(slices):
    """The same scale, window and rounding for all: of each class some slice uses most grey values, up to the end."""
    for label in range(32):
        image, _ = slices.draw(label)
        assert image.max() >= 150, label
        assert len(np.unique(image)) > 40, label


def test_mildest_artefact_is_hardly_visible_and_strongest_is_plain(slices):
    """Between severity 0 and 1, every artefact changes the slice by several times more."""

    def changed(i, severity):
        """Root mean square difference in grey values from the slices without their artefact."""
        pictures = {}
        for scale in (severity, None):
            exams = [artefacts._Exam(slices, volume, artefacts._generator("fixed", i, k)) for k in range(6)]
            for exam in exams:
                original = exam.strength
                exam.strength = lambda span, _, s=scale, f=original: 1e-6 if s is None else f(span, s)
            pictures[scale] = np.stack([exam.acquire(ARTEFACTS[i])[0].astype(float) for exam in exams])
        return float(np.sqrt(np.mean((pictures[severity] - pictures[None]) ** 2)))

    volume = slices._volumes[0]["t1"]
    for i in range(1, 8):
        mild, strong = changed(i, 0.0), changed(i, 1.0)
        assert strong > 2.5 * mild, ARTEFACTS[i]
        assert strong > 7, ARTEFACTS[i]


def test_wrong_arguments_are_refused(slices):
    with pytest.raises(ValueError, match="'n_per_class' must be at least 1"):
        ArtefactSlices(0)
    with pytest.raises(ValueError, match="'size' at least 16"):
        ArtefactSlices(1, size=8)
    with pytest.raises(ValueError, match="'i' must be 0 to 63"):
        slices.draw(64)


def features(images):
    """Histogram, its logarithm, and radial power spectrum of slices."""
    x = torch.from_numpy(images).float() / 255
    histogram = torch.stack([torch.histc(picture, 32, 0, 1) for picture in x])
    power = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)).abs().add(1e-6).log().flatten(1)
    line = torch.arange(64) - 32
    radius = (line[:, None] ** 2 + line**2).float().sqrt().round().long().clamp(max=32).flatten()
    spectrum = torch.zeros(len(x), 33).index_add_(1, radius, power) / torch.bincount(radius)
    return torch.cat([histogram / 4096, (histogram + 1).log(), spectrum], dim=1).numpy()


def linear_accuracy(train, test):
    """Test accuracy of a logistic regression on histogram and radial spectrum."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    model.fit(features(train["images"]), train["labels"])
    return float(model.score(features(test["images"]), test["labels"]))


@pytest.mark.slow
def test_released_teacher_is_well_above_a_linear_classifier_on_histogram_and_spectrum(repository):
    """Takes minutes where the cohort of the released weights is not in the cache yet."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(repository / f"bundles/unikd/configs/{name}.json") for name in ("train", "evaluate")])
    parser["bundle_root"] = str(repository / "bundles/unikd")
    train, test = (np.load(parser.get_parsed_content(name).write()) for name in ("slices", "val_slices"))
    linear = linear_accuracy(train, test)
    teacher, student = (parser.get_parsed_content(name).cpu().eval() for name in ("teacher", "network"))
    student.load_state_dict(torch.load(repository / "bundles/unikd/models/model.pt", weights_only=True))
    images = torch.from_numpy(test["images"]).float()[:, None] / 255
    right = []
    with torch.no_grad():
        for network in (teacher, student):
            said = torch.cat([network(part).argmax(1) for part in images.split(128)])
            right.append(float((said.numpy() == test["labels"]).mean()))
    assert right[0] > linear + 0.15
    assert right[1] > linear + 0.10


def test_cohort_of_the_task_is_kept_in_the_cache(slices):
    folder = Path(os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit")
    assert slices.path.parent == folder
    assert isinstance(slices.cohort, BrainCohort)
