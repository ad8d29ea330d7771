"""Labelled pictures in folders, arrays and tables: what is listed, how it is split, and what is refused."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from medkit.distill import ArtefactSlices, LoadPictured, class_names, image_list


def picture(path, size=(8, 8), value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        for i in range(10):
            picture(tmp_path / "animals" / name / f"{i}.png")
    return tmp_path / "animals"


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def images(n, dtype=np.uint8):
    return np.arange(n * 16, dtype=dtype).reshape(n, 4, 4)


def test_splits_are_a_partition_that_does_not_depend_on_the_order(tmp_path):
    subjects = [f"s{i % 20:02d}" for i in range(100)]
    labels = np.arange(100) % 3
    order = np.random.default_rng(0).permutation(100)
    cases = np.array([f"c{i:03d}" for i in range(100)])
    first = write(tmp_path / "a.npz", images=images(100), labels=labels, subjects=np.array(subjects), cases=cases)
    again = write(
        tmp_path / "b.npz",
        images=images(100)[order],
        labels=labels[order],
        subjects=np.array(subjects)[order],
        cases=cases[order],
    )
    parts = {split: image_list(first, split) for split in ("train", "validation", "test")}
    names = {split: {item["case"] for item in items} for split, items in parts.items()}
    owners = {split: {item["subject"] for item in items} for split, items in parts.items()}
    assert sum(map(len, parts.values())) == len(set.union(*names.values())) == 100
    assert [len(owners[split]) for split in ("train", "validation", "test")] == [14, 2, 4]
    assert not owners["train"] & owners["test"]
    assert not owners["train"] & owners["validation"]
    assert {split: {item["case"] for item in image_list(again, split)} for split in names} == names


def test_pictures_keep_their_labels(folder):
    for item in image_list(folder, "all"):
        assert item["label"] == ["cat", "dog"].index(item["case"].split("/")[0])
    assert class_names(folder) == ["cat", "dog"]
    shares = [len(image_list(folder, split)) for split in ("train", "validation", "test")]
    assert shares == [14, 2, 4]


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for split, n in (("Training", 3), ("val", 2), ("Testing", 1)):
        for i in range(n):
            picture(tmp_path / split / "a" / f"{i}.png")
            picture(tmp_path / split / "b" / f"{i}.jpg")
    assert [len(image_list(tmp_path, split)) for split in ("train", "validation", "test")] == [6, 4, 2]
    picture(tmp_path / "val" / "c" / "0.png")
    with pytest.raises(ValueError, match=r"classes \['c'\] are not among"):
        image_list(tmp_path, "train")


def test_medmnist_arrays_of_one_class_of_two_and_of_several_at_a_time(tmp_path):
    binary = write(
        tmp_path / "binary.npz",
        train_images=images(4),
        train_labels=np.array([[0], [1], [1], [0]], np.uint8),
        val_images=images(2),
        val_labels=np.array([[1], [0]], np.uint8),
    )
    items = image_list(binary, "train")
    assert [item["label"] for item in items] == [0, 1, 1, 0]
    np.testing.assert_array_equal(items[2]["image"], images(4)[2])
    assert class_names(binary) == ["0", "1"]
    with pytest.raises(ValueError, match=r"no pictures for 'test', it has \['train', 'validation'\]"):
        image_list(binary, "test")
    several = write(
        tmp_path / "several.npz", test_images=images(2), test_labels=np.array([[0, 1, 1], [0, 0, 0]], np.uint8)
    )
    label = image_list(several, "test")[0]["label"]
    assert label.dtype == np.float32
    assert label.tolist() == [0, 1, 1]


def test_table_with_splits_subjects_and_several_labels(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    table = tmp_path / "list.csv"
    table.write_text("path,label,split,subject\n0.png,oedema|nodule,train,s0\n1.png,,train,s1\n2.png,nodule,test,s2\n")
    items = image_list(table, "train")
    assert class_names(table) == ["nodule", "oedema"]
    assert [item["label"].tolist() for item in items] == [[1, 1], [0, 0]]
    assert [item["subject"] for item in items] == ["s0", "s1"]
    assert image_list(table, "test")[0]["image"] == str(tmp_path / "2.png")


def test_unlabelled_files_and_slices_of_volumes(tmp_path):
    picture(tmp_path / "sub" / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 3), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    items = image_list(tmp_path, "all", labelled=False)
    assert [item["case"] for item in items] == ["sub/a.png", "v.nii.gz_000", "v.nii.gz_001", "v.nii.gz_002"]
    assert items[3]["i_slice"] == 2
    assert "label" not in items[0]
    assert len(image_list(tmp_path / "sub" / "a.png", "all", labelled=False)) == 1
    assert len(image_list(tmp_path, "all", labelled=False, limit=2)) == 2


def test_nifti_slices_are_seen_as_radiologists_do(tmp_path):
    volume = np.zeros((6, 8, 2), np.float32)
    volume[5, 7, 1] = 1  # right, anterior, in RAS
    flipped = np.diag([-1.0, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "ras.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume[::-1], flipped), tmp_path / "las.nii.gz")
    for name in ("ras", "las"):
        image = LoadPictured("image")({"image": str(tmp_path / f"{name}.nii.gz"), "i_slice": 1})["image"]
        assert image.shape == (1, 8, 6)
        assert image[0].argmax() == 0, "anterior at the top, the right at the left"
    with pytest.raises(ValueError, match="2 slices"):
        LoadPictured("image")({"image": str(tmp_path / "ras.nii.gz")})


def test_loaded_grey_values_sizes_and_colours(tmp_path):
    Image.fromarray(np.full((4, 6, 3), (255, 0, 0), np.uint8)).save(tmp_path / "red.png")
    grey = LoadPictured("image")({"image": str(tmp_path / "red.png")})["image"]
    assert grey.shape == (1, 4, 6)
    assert float(grey.mean()) == pytest.approx(0.299, abs=1e-4)
    colour = LoadPictured("image", channels=3, image_size=12)({"image": str(tmp_path / "red.png")})["image"]
    assert colour.shape == (3, 12, 12)
    assert float(colour[0].mean()) == pytest.approx(8 / 12), "the longer side fills the square, the rest is 0"
    bright = np.linspace(0, 5000, 101, dtype=np.float32).reshape(1, 101)
    scaled = LoadPictured("image")({"image": bright})["image"]
    assert float(scaled.max()) == pytest.approx(5000 / (1.3 * 4950))
    assert float(LoadPictured("image")({"image": np.zeros((4, 4), np.float32)})["image"].max()) == 0


def test_one_pixel_and_limit(tmp_path):
    path = write(tmp_path / "a.npz", images=np.zeros((5, 1, 1), np.uint8), labels=np.arange(5) % 2)
    assert len(image_list(path, "all", limit=2)) == 2
    assert LoadPictured("image")(image_list(path, "all")[0])["image"].shape == (1, 1, 1)


REFUSED = {
    "objects": ({"images": np.array([object()] * 3), "labels": np.zeros(3, int)}, "Python objects"),
    "no labels": ({"images": images(3)}, "must hold 'labels'"),
    "no images": ({"pixels": images(3)}, "must hold 'images' and 'labels'"),
    "too few labels": ({"images": images(3), "labels": np.zeros(2, int)}, "got 2 for 3"),
    "out of range": (
        {"images": images(3), "labels": np.array([0, 1, 2]), "class_names": np.array(["a", "b"])},
        "labels must be 0 to 1 for 2 classes, got 0 to 2",
    ),
    "negative": ({"images": images(3), "labels": np.array([0, -1, 1])}, "got -1 to 1"),
    "fractions": ({"images": images(3), "labels": np.array([0.5, 1, 0])}, "whole numbers"),
    "several of 2": ({"images": images(3), "labels": np.array([[0, 2]] * 3)}, "must be 0 or 1"),
    "volumes": ({"images": np.zeros((3, 4, 4, 4)), "labels": np.zeros(3, int)}, r"\(N, H, W\)"),
    "nan": ({"images": np.full((3, 4, 4), np.nan), "labels": np.zeros(3, int)}, "finite"),
    "sizes": (
        {
            "train_images": images(3),
            "train_labels": np.zeros(3, int),
            "val_images": np.zeros((3, 5, 5), np.uint8),
            "val_labels": np.zeros(3, int),
        },
        "one size",
    ),
    "subjects": ({"images": images(3), "labels": np.zeros(3, int), "subjects": np.array(["a"])}, "'subjects' must be"),
    "split": ({"images": images(3), "labels": np.zeros(3, int), "splits": np.array(["x"] * 3)}, "a split must be of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arrays_are_refused_in_one_sentence(name, tmp_path):
    arrays, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        image_list(write(tmp_path / "a.npz", **arrays), "train")


def test_wrong_files_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        image_list(tmp_path / "nothing", "train")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a folder, a .npz or a .csv"):
        image_list(tmp_path / "a.txt", "train")
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(ValueError, match="plain arrays"):
        image_list(tmp_path / "a.npz", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one sub-folder for each class"):
        image_list(tmp_path / "empty", "train")
    with pytest.raises(FileNotFoundError, match="no pictures"):
        image_list(tmp_path / "empty", "all", labelled=False)
    with pytest.raises(ValueError, match="has 2 classes"):
        image_list(folder, "train", classes=["a", "b", "c"])
    picture(folder / "cat" / "large.png", size=(9, 8))
    with pytest.raises(ValueError, match=r"must have one size, got \(9, 8\)|must have one size, got \(8, 8\)"):
        image_list(folder, "all")
    assert len(image_list(folder, "all", same_size=False)) == 21


def test_wrong_tables_are_refused_in_one_sentence(tmp_path):
    picture(tmp_path / "0.png")
    table = tmp_path / "list.csv"
    for text, sentence in (
        ("file,label\n0.png,a\n", r"lacks \['path'\]"),
        ("path,label\n0.png,\n", "must have a label"),
        ("path,label,split\n0.png,a,tomorrow\n", "a split must be of"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            image_list(table, "all")
    table.write_text("path,label\n1.png,a\n")
    with pytest.raises(FileNotFoundError, match=r"1 files that do not exist, the first is .*1\.png"):
        image_list(table, "all")


def test_simulated_slices_of_another_split_are_refused(tmp_path):
    slices = ArtefactSlices(1, "validation", n_subjects=1, spacing=8.0, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="of the split 'train', got those of 'validation'"):
        image_list(None, "train", slices)
    assert len(class_names(None)) == 32


@pytest.mark.real
def test_real_sets_are_read(real_data):
    folder = real_data / "classification" / "derived"
    items = image_list(folder / "pneumoniamnist_train_val.npz", "train")
    assert len(items) == 3882
    tumours = folder / "brain_tumor_mri64_train.npz"
    parts = [len(image_list(tumours, split)) for split in ("train", "validation", "test")]
    assert sum(parts) == 2540
    assert class_names(tumours)[2] == "no_tumor"
    assert LoadPictured("image")(items[0])["image"].shape == (1, 28, 28)
