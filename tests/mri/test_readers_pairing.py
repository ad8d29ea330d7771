"""Pairs of contrasts: found by name or by table, split by subject, and bad ones refused by name or left out."""

from __future__ import annotations

import json
import logging

import nibabel
import numpy as np
import pytest
import torch

from medkit.data import BrainCohort
from medkit.data.splits import split_of_name
from medkit.mri import LoadAcquisitiond, LoadGuided, pair_list, root_sum_of_squares
from medkit.mri.readers.contrasts import split_name
from medkit.ops import centered_ifft

SPLITS = ("train", "validation", "test")
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def save(path, shape=(6, 5, 4), affine=AFFINE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.random.default_rng(seed).random(shape, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    return path


def ixi(root, n_subjects=3, contrasts=("T1", "T2", "PD")):
    for i in range(n_subjects):
        for k, contrast in enumerate(contrasts):
            save(root / f"IXI-{contrast}" / f"IXI{i:03d}-Guys-{800 + i}-{contrast}.nii.gz", seed=10 * i + k)
    return root


@pytest.mark.parametrize(
    ("stem", "case", "contrast"),
    [
        ("IXI002-Guys-0828-PD", "IXI002-Guys-0828", "pd"),
        ("BraTS-GLI-00001-000-t1n", "BraTS-GLI-00001-000", "t1"),
        ("Brats18_CBICA_AAM_1_t1ce", "Brats18_CBICA_AAM_1", "t1c"),
        ("BraTS-GLI-00001-000-t2f", "BraTS-GLI-00001-000", "flair"),
        ("sub-01_ses-2_T2w", "sub-01_ses-2", "t2"),
        ("OtherEXampleFromTCIA_fla_bet", "OtherEXampleFromTCIA_bet", "flair"),
        ("T2", "", "t2"),
        ("a-t1-t2", "a-t1", "t2"),
        ("head_DWI", "head", "dwi"),
    ],
)
def test_names_tell_examination_and_contrast(stem, case, contrast):
    assert split_name(stem, ["dwi"]) == (case, contrast)


def test_names_without_a_contrast_tell_nothing():
    assert split_name("IXI002-Guys-0828-MRA", ["t2"]) is None
    assert split_name("part2t2", ["t2"]) is None


def test_a_folder_is_paired_by_subject(tmp_path):
    entries = pair_list(ixi(tmp_path), per="volume", target="t2", guides=("pd", "t1"))
    assert [entry["case"] for entry in entries] == [f"IXI{i:03d}-Guys-{800 + i}" for i in range(3)]
    for i, entry in enumerate(entries):
        assert entry["subject"] == f"IXI{i:03d}"
        assert entry["path"].endswith(f"IXI{i:03d}-Guys-{800 + i}-T2.nii.gz")
        assert [path[-9:-7] for path in entry["guide"]] == ["PD", "T1"]
        assert all(f"IXI{i:03d}" in path for path in entry["guide"])
    swapped = pair_list(tmp_path, per="volume", target="PD", guides="T2")
    assert swapped[0]["path"] == entries[0]["guide"][0]
    assert swapped[0]["guide"] == [entries[0]["path"]]


def test_folders_of_examinations_with_files_named_for_their_contrast(tmp_path):
    for name in ("sub-1", "sub-2"):
        for contrast in ("t1", "t2"):
            save(tmp_path / name / f"{contrast}.nii")
    entries = pair_list(tmp_path, per="volume")
    assert [(entry["case"], entry["subject"]) for entry in entries] == [("sub-1", "sub-1"), ("sub-2", "sub-2")]
    assert "sub-2" in entries[1]["path"]
    assert "sub-2" in entries[1]["guide"][0]


def test_all_examinations_of_a_subject_share_its_split(tmp_path):
    for i in range(12):
        for visit in range(2):
            for contrast in ("t1n", "t2w"):
                (tmp_path / f"BraTS-GLI-{i:05d}-{visit:03d}-{contrast}.nii").touch()
    from medkit.mri.readers.contrasts import exams_of_folder
    from medkit.mri.readers.pairing import _of_split

    exams = exams_of_folder(tmp_path, ["*"], ["t2", "t1"], None)
    found = {}
    for split in SPLITS:
        try:
            chosen = _of_split(exams, split, tmp_path)
        except ValueError:
            continue
        found[split] = {exam.subject for exam in chosen}
        assert len(chosen) == 2 * len(found[split]), "both visits"
        assert all(split_of_name(subject) == split for subject in found[split])
    assert sum(len(subjects) for subjects in found.values()) == 12
    assert len(set.union(*found.values())) == 12
    assert len(found) > 1


def test_datalist_and_table_say_the_same(tmp_path):
    ixi(tmp_path, 2, ("T2", "PD"))
    rows = [
        {"T2": f"IXI-T2/IXI{i:03d}-Guys-{800 + i}-T2.nii.gz", "pd": f"IXI-PD/IXI{i:03d}-Guys-{800 + i}-PD.nii.gz"}
        for i in range(2)
    ]
    (tmp_path / "list.json").write_text(json.dumps({"train": rows[:1], "val": rows[1:]}))
    (tmp_path / "plain.json").write_text(json.dumps(rows))
    table = [
        "T2,pd,split",
        *(f"{row['T2']},{row['pd']},{split}" for row, split in zip(rows, ("train", "val"), strict=True)),
    ]
    (tmp_path / "list.csv").write_text("\n".join(table) + "\n")
    options = {"per": "volume", "guides": "pd"}
    expected = pair_list(tmp_path, **options)
    assert len(expected) == 2
    assert pair_list(tmp_path / "plain.json", **options) == expected
    for name in ("list.json", "list.csv"):
        assert pair_list(tmp_path / name, **options) == expected
        assert pair_list(tmp_path / name, "train", **options) == expected[:1]
        assert pair_list(tmp_path / name, "validation", **options) == expected[1:]


def test_sub_folders_are_splits_and_a_subject_in_two_is_refused(tmp_path):
    for folder, i in (("train", 0), ("val", 1)):
        for contrast in ("T1", "T2"):
            save(tmp_path / folder / f"IXI{i:03d}-{contrast}.nii")
    assert [entry["subject"] for entry in pair_list(tmp_path, "validation", per="volume")] == ["IXI001"]
    for contrast in ("T1", "T2"):
        save(tmp_path / "val" / f"IXI000-{contrast}.nii")
    with pytest.raises(ValueError, match="the subject 'IXI000' must be in one split"):
        pair_list(tmp_path, "train", per="volume")


def test_slices_hold_the_same_place_of_all_contrasts(tmp_path):
    entries = pair_list(ixi(tmp_path), guides=("pd", "t1"), central_fraction=0.5)
    assert [entry["i_slice"] for entry in entries] == [1, 2] * 3
    sample = LoadGuided()(LoadAcquisitiond()(entries[3]))
    assert sample["guide"].shape == (2, 6, 5)
    assert sample["magnitude"].shape == (1, 6, 5)
    for channel, path in zip(sample["guide"], entries[3]["guide"], strict=True):
        np.testing.assert_array_equal(channel, np.asarray(nibabel.load(path).dataobj)[:, :, 2])
    volume = LoadGuided(n_slices=2)({**pair_list(tmp_path, per="volume")[0]})["guide"]
    expected = np.asarray(nibabel.load(tmp_path / "IXI-T1" / "IXI000-Guys-800-T1.nii.gz").dataobj)[:, :, 1:3]
    np.testing.assert_array_equal(volume[0], expected)


def test_each_reference_by_itself_takes_what_an_exam_has(tmp_path):
    ixi(tmp_path, 2)
    (tmp_path / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz").unlink()
    entries = pair_list(tmp_path, per="volume", guides=("t1", "pd"), each_guide=True)
    assert [(entry["case"], entry["guide_contrasts"]) for entry in entries] == [
        ("IXI000-Guys-800_t1", ["t1"]),
        ("IXI000-Guys-800_pd", ["pd"]),
        ("IXI001-Guys-801_t1", ["t1"]),
    ]
    for entry in entries:
        ((guide,), subject) = entry["guide"], entry["subject"]
        assert guide.endswith(f"-{entry['guide_contrasts'][0].upper()}.nii.gz")
        assert subject in guide
        assert subject in entry["path"]
    with pytest.raises(ValueError, match="'IXI001-Guys-801' must have the contrasts t2, t1, pd, it has no pd"):
        pair_list(tmp_path, per="volume", guides=("t1", "pd"))
    for path in (tmp_path / "IXI-T1").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="'IXI001-Guys-801' must have the contrasts t2, t1, pd, it has no t1, pd"):
        pair_list(tmp_path, per="volume", guides=("t1", "pd"), each_guide=True)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_references_is_of_other_subjects(tmp_path, share):
    options = {"guides": ("t1", "pd"), "each_guide": True}
    right = pair_list(ixi(tmp_path), **options)
    wrong = pair_list(tmp_path, mispaired=share, **options)
    assert len(wrong) == len(right) == 24
    assert [{**a, "guide": None} for a in right] == [{**b, "guide": None} for b in wrong]
    swapped = [b for a, b in zip(right, wrong, strict=True) if a["guide"] != b["guide"]]
    for b in swapped:
        assert b["subject"] not in b["guide"][0]
        assert b["guide"][0].endswith(f"-{b['guide_contrasts'][0].upper()}.nii.gz")
    assert len(swapped) == share * 24
    assert pair_list(tmp_path, mispaired=share, **options) == wrong
    assert pair_list(tmp_path, mispaired=share, seed=1, **options) != wrong


def test_a_lone_subject_has_no_wrong_references(tmp_path):
    with pytest.raises(ValueError, match="'mispaired' must be 0 here, or there must be a second subject"):
        pair_list(ixi(tmp_path, 1), mispaired=0.5)
    with pytest.raises(ValueError, match="'mispaired' must be 0 to 1"):
        pair_list(tmp_path, mispaired=1.5)


def test_kspace_guides_by_its_coils_together(tmp_path):
    kspace = np.random.default_rng(0).standard_normal((3, 2, 8, 6, 2)).astype(np.float32).view(np.complex64)[..., 0]
    np.save(tmp_path / "t2.npy", kspace)
    np.save(tmp_path / "t1.npy", 2 * kspace)
    (entry,) = pair_list(tmp_path / "t2.npy", guide_path=tmp_path / "t1.npy", per="volume")
    sample = LoadGuided()(entry)
    expected = 2 * root_sum_of_squares(centered_ifft(torch.from_numpy(kspace)), keepdim=True).movedim(0, -1)
    torch.testing.assert_close(sample["guide"], expected)
    assert torch.equal(LoadGuided()({**entry, "i_slice": 1})["guide"], sample["guide"][..., 1])


def test_cohort_pairs_are_not_copies_of_each_other(monkeypatch, tmp_path):
    cohort = BrainCohort(1, spacing=8.0, contrasts=("t2", "t1"), lesions=True, misalignment=0.5, cache_dir=tmp_path)
    monkeypatch.setattr(BrainCohort, "datalist", lambda self: [{"case": "s", "t2": "a", "t1": "b", "labels": "c"}])
    assert pair_list(cohort=cohort, per="volume") == [
        {"path": "a", "guide": ["b"], "guide_contrasts": ["t1"], "case": "s", "subject": "s"}
    ]
    with pytest.raises(ValueError, match="must be of \\('t2', 't1'\\) for this cohort, got \\['pd'\\]"):
        pair_list(cohort=cohort, guides="pd")
    with pytest.raises(ValueError, match="is the train split"):
        pair_list(cohort=cohort, split="test")
    made = []
    monkeypatch.setattr(
        BrainCohort,
        "__init__",
        lambda self, *args, **options: made.append(options) or setattr(self, "contrasts", options["contrasts"]),
    )
    pair_list(split="test", per="volume")
    assert made == [{"contrasts": ["t2", "t1"], "lesions": True, "misalignment": 0.5}]


def unpaired(root):
    (root / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz").unlink()
    return "IXI001-Guys-801-T2.nii.gz; add it"


def other_size(root):
    save(root / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz", (6, 5, 3))
    return "IXI001-Guys-801-PD.nii.gz must fit its target .*801-T2.nii.gz: it has 6x5x3 voxels, the target 6x5x4"


def other_place(root):
    affine = AFFINE.copy()
    affine[0, 3] += 0.5
    save(root / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz", affine=affine)
    return "IXI001-Guys-801-PD.nii.gz must fit .* lie up to 0.5 voxels beside"


def other_orientation(root):
    save(root / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz", affine=np.diag([-1.0, 1.5, 2.0, 1.0]))
    return "IXI001-Guys-801-PD.nii.gz must fit .* its axes run LAS, the target's RAS"


def cut_off(root):
    file = root / "IXI-PD" / "IXI001-Guys-801-PD.nii.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return "IXI001-Guys-801-PD.nii.gz"


def nan(root):
    volume = np.ones((6, 5, 4), np.float32)
    volume[1, 1, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), root / "IXI-T2" / "IXI001-Guys-801-T2.nii.gz")
    return "IXI001-Guys-801-T2.nii.gz"


@pytest.mark.parametrize("spoil", [unpaired, other_size, other_place, other_orientation, cut_off, nan])
def test_bad_subject_is_named_or_left_out(spoil, tmp_path, caplog):
    words = spoil(ixi(tmp_path))

    def load_all(**options):
        entries = pair_list(tmp_path, per="volume", guides="pd", **options)
        return [LoadGuided()(LoadAcquisitiond()(entry))["subject"] for entry in entries]

    with pytest.raises(ValueError, match=words):
        load_all()
    with caplog.at_level(logging.WARNING):
        assert load_all(skip_bad=True) == ["IXI000", "IXI002"]
    (record,) = caplog.records
    assert record.getMessage().startswith("IXI001-Guys-801 is left out: ")
    assert "skip_bad" not in record.getMessage(), "no advice that was followed"


def test_when_all_are_bad_nothing_goes_on(tmp_path):
    save(tmp_path / "a-t2.nii"), save(tmp_path / "a-t1.nii", (5, 5, 4))
    with pytest.raises(ValueError, match="all 1 exams are bad"):
        pair_list(tmp_path, skip_bad=True)


def test_coils_of_two_sessions_do_not_pair(tmp_path):
    for name, n_coils in (("t2", 4), ("t1", 3)):
        np.save(tmp_path / f"{name}.npy", np.ones((n_coils, 8, 6), np.complex64))
    with pytest.raises(
        ValueError, match=r"t1.npy must fit its target .*t2.npy: it has 3 coils, the target 4"
    ) as caught:
        pair_list(tmp_path / "t2.npy", guide_path=tmp_path / "t1.npy")
    assert "skip_bad" not in str(caught.value), "nothing would be left"


def test_tables_that_are_no_utf8_are_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("t2,t1,case\na.nii,b.nii,Müller\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list.csv must be a table of UTF-8 text with commas"):
        pair_list(tmp_path / "list.csv")


def test_undersampled_references_are_refused(tmp_path):
    kspace = np.ones((2, 8, 6), np.complex64)
    np.save(tmp_path / "t2.npy", kspace)
    kspace[..., ::2] = 0
    np.save(tmp_path / "t1.npy", kspace)
    (entry,) = pair_list(tmp_path / "t2.npy", guide_path=tmp_path / "t1.npy")
    with pytest.raises(ValueError, match=r"t1.npy must be fully sampled"):
        LoadGuided()(entry)


def test_a_reference_on_another_grid_is_refused_when_it_is_loaded(tmp_path):
    sample = {"path": str(save(tmp_path / "a.nii")), "guide": str(save(tmp_path / "b.nii", (5, 5, 4))), "i_slice": 0}
    with pytest.raises(ValueError, match=r"LoadGuided: .*b.nii must fit its target"):
        LoadGuided()(sample)


def test_a_reference_of_zeros_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.float32), AFFINE), tmp_path / "b.nii")
    sample = {"path": str(save(tmp_path / "a.nii")), "guide": str(tmp_path / "b.nii")}
    with pytest.raises(ValueError, match=r"LoadGuided: .*b.nii holds nothing but zeros"):
        LoadGuided()(sample)
    assert not LoadGuided()({**sample, "i_slice": 0})["guide"].any()  # a slice of air is no fault


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"guides": "t2"}, "'guides' must be at least one contrast other than 'target'"),
        ({"guides": ()}, "'guides' must be at least one contrast"),
        ({"guides": ("t1", "T1w")}, "'guides' must be at least one contrast"),
        ({"align": "elastic"}, "'align' must be one of"),
        ({"split": "training"}, "'split' must be"),
        ({"per": "exam"}, "'per' must be"),
        ({"min_signal": 2}, "'min_signal'"),
        ({"guide_path": "b.nii"}, "'guide_path' belongs to a single file"),
        ({"guides": "dwi", "target": "adc"}, "which are pd, t1, t2, got adc, dwi; give those"),
        ({"subject": "XYZ"}, "'subject' must be found"),
        ({"pattern": "*.mha"}, "'pattern'"),
        ({"split": "test", "pattern": "IXI000*"}, "is in the split 'test'"),
    ],
)
def test_arguments_are_checked(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        pair_list(ixi(tmp_path, 1), **arguments)


def test_sources_are_checked(tmp_path):
    file = save(tmp_path / "a-t2.nii")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pair_list(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'guide_path' must name 1 file"):
        pair_list(file)
    with pytest.raises(FileNotFoundError, match=r"gone.nii"):
        pair_list(file, guide_path=tmp_path / "gone.nii")
    save(tmp_path / "deep" / "a-t2.nii.gz")
    save(tmp_path / "deep" / "a_t2w.nii.gz")
    with pytest.raises(ValueError, match="must have one file of the contrast t2"):
        pair_list(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "it is no JSON"),
        ("a.json", '{"train": 3}', "it has 'train'"),
        ("a.json", "[]", "it is empty"),
        ("a.json", '[{"case": "a"}]', "each entry of .* must name a file of t2, t1"),
        ("a.json", '[{"t2": "a.nii", "case": "a"}, {"t2": "b.nii", "case": "a"}]', "'a' is there twice"),
        ("a.json", '{"training": [{"t2": "a-t2.nii"}], "later": [{"t2": "b-t2.nii"}]}', "'split' of 'b'"),
        ("a.csv", "t2,t1\n", "got no exam"),
        ("a.csv", "t2,t1,case\na.nii,b.nii,../x\n", r"'case' must name files of results, .* got '\.\./x'"),
    ],
)
def test_tables_are_checked(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        pair_list(tmp_path / name)


@pytest.mark.real
def test_real_patients_are_paired(real_data):
    folder = real_data / "mri_multicontrast" / "BrainLesion__tutorials"
    entries = pair_list(folder, target="t2", guides=("t1", "flair", "t1c"), per="volume")
    assert [entry["case"] for entry in entries] == ["BraTS-GLI-00001-000", "OtherEXampleFromTCIA_bet"]
    assert entries[0]["subject"] == "BraTS-GLI-00001"
    sample = LoadGuided()(LoadAcquisitiond()({**entries[0], "i_slice": 77}))
    assert sample["guide"].shape == (3, *sample["magnitude"].shape[1:])
    images = torch.cat([sample["magnitude"], sample["guide"]])
    brain = images > 0
    # One brain, skull-stripped, in contrasts that differ.
    assert all(float((brain[0] == other).float().mean()) > 0.99 for other in brain[1:])
    assert abs(np.corrcoef(images[:2, brain.all(0)])[0, 1]) < 0.9
