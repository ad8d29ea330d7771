"""New scans for an atlas: named as its files were, refused where it has them or cannot align them, else all added."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkit.atlas import AtlasFolder, MisalignedError, add_scans, recompute_template, write_transforms
from medkit.atlas import adding as module
from medkit.atlas.known_images import digests_of
from medkit.atlas.result import RECORD, write_record
from medkit.cli import main
from tests.atlas.small_atlas import small_atlas

SIZE = (20, 22, 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> AtlasFolder:
    """Return an atlas that knows what its images look like."""
    atlas = small_atlas(tmp_path_factory.mktemp("adding") / "atlas", SIZE, n=2)
    write_transforms(atlas)
    recompute_template(atlas)
    record = json.loads((atlas.folder / RECORD).read_text())
    write_record(
        atlas.folder,
        {key: value for key, value in record.items() if key not in ("members", "format")},
        tuple(replace(m, digests=digests_of(m.subject)) for m in atlas.members),
    )
    return AtlasFolder(atlas.folder)


@pytest.fixture
def atlas(made: AtlasFolder, tmp_path: Path) -> Path:
    shutil.copytree(made.folder, tmp_path / "atlas")
    return tmp_path / "atlas"


@pytest.fixture
def scan(made: AtlasFolder, tmp_path: Path):
    """Return a function that writes a new head."""

    def write(name: str, scale: float = 0.9) -> str:
        stored = nibabel.load(made.members[0].subject.images["image"])
        array = np.asarray(stored.dataobj) * np.float32(scale)
        nibabel.save(nibabel.Nifti1Image(array, stored.affine), tmp_path / f"{name}.nii.gz")
        return str(tmp_path / f"{name}.nii.gz")

    return write


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_scan_is_named_as_the_files_of_the_atlas_and_replaced_on_request(atlas: Path, scan, capsys) -> None:
    path = scan("new_image")  # those of the atlas are s0_image, s1_image
    assert main(["atlas", "add", str(atlas), path, "--alignment", "rigid"]) == 0
    assert "new is in" in capsys.readouterr().out
    (member,) = AtlasFolder(atlas).added
    assert member.name == "new"
    assert set(member.alignment) == {"score", "overlap"}
    assert dict(member.digests) == digests_of(member.subject)
    before = contents(atlas)
    with pytest.raises(ValueError, match=r"'new' was added before; replace it by 'replace' \(--replace\)"):
        main(["atlas", "add", str(atlas), path, "--alignment", "none"])
    assert contents(atlas) == before
    assert main(["atlas", "add", str(atlas), scan("new_image", 0.8), "--alignment", "none", "--replace"]) == 0
    (again,) = AtlasFolder(atlas).added
    assert again.digests != member.digests


def test_what_the_atlas_has_is_refused_whatever_it_is_called(atlas: Path, made: AtlasFolder, scan, tmp_path) -> None:
    before = contents(atlas)
    own = made.members[1].subject.images["image"]
    copied = shutil.copy(own, tmp_path / "somebody.nii.gz")
    stored = nibabel.load(own)
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj), np.eye(4)), tmp_path / "moved.nii")
    for path in (copied, tmp_path / "moved.nii"):
        name = Path(path).name.split(".")[0]
        with pytest.raises(ValueError, match=f"was built of the image of '{name}' under the name 's1'; leave it out"):
            add_scans(atlas, [scan("new"), path], alignment="none")
    with pytest.raises(ValueError, match="the atlas was built of 's1', which is nothing new"):
        add_scans(atlas, [own], alignment="none")
    with pytest.raises(ValueError, match="'a' and 'b' are one image"):
        add_scans(atlas, [scan("a"), scan("b")], alignment="none")
    assert contents(atlas) == before


def test_an_atlas_without_digests_knows_its_files(atlas: Path, scan) -> None:
    record = (atlas / RECORD).read_text()
    (atlas / RECORD).write_text(record.replace('"digests"', '"other"'))
    own = AtlasFolder(atlas).members[1]
    assert own.digests == {}
    link = atlas.parent / "link.nii.gz"
    link.symlink_to(own.subject.images["image"])
    with pytest.raises(ValueError, match="under the name 's1'; leave it out"):
        add_scans(atlas, [link], alignment="none")


def test_a_scan_that_cannot_be_aligned_is_refused_with_its_picture(
    atlas: Path, scan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turned = scan("turned", 0.5)
    good = [scan("a", 0.7), scan("b", 0.6)]
    real, seen = module.misaligned, []

    def misaligned(*rest):
        seen.append(rest)
        return [(0, "it is upside down")] if len(seen) % 3 == 0 else real(*rest)

    monkeypatch.setattr(module, "misaligned", misaligned)
    words = ["atlas", "add", str(atlas), good[0], turned, good[1], "--alignment", "rigid"]
    before = (atlas / RECORD).read_bytes()
    with pytest.raises(
        MisalignedError,
        match=r"the alignment of 'turned' failed: it is upside down; look at .*failed_turned\.png; align before, and "
        r"set alignment to 'none', or leave such scans out by 'exclude_failed' \(--exclude_failed\)",
    ):
        main(words)
    assert (atlas / RECORD).read_bytes() == before
    assert (atlas / "failed_turned.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((atlas / "velocities").glob("[ab].npy"))
    assert main([*words, "--exclude_failed", "True"]) == 0
    assert [m.name for m in AtlasFolder(atlas).added] == ["a", "b"]
    assert "left out: the alignment of 'turned' failed" in caplog.text
    monkeypatch.setattr(module, "misaligned", lambda *rest: [(0, "it is upside down")])
    with pytest.raises(MisalignedError, match=r"set alignment to 'none'$"):
        add_scans(atlas, [turned], alignment="rigid", exclude_failed=True)
    add_scans(atlas, [turned], alignment="none")  # aligned by hand
    assert not (atlas / "failed_turned.png").exists()


def test_scans_are_given_by_a_pattern_in_quotes(atlas: Path, scan, tmp_path: Path) -> None:
    scan("a", 0.7), scan("b", 0.6), scan("c[1]", 0.5)
    words = ["atlas", "add", str(atlas), str(tmp_path / "[ab].nii.gz"), str(tmp_path / "c[1].nii.gz")]
    with pytest.raises(ValueError, match=r"files that exist, there is no .*\*_T2\.nii\.gz"):
        main([*words, str(tmp_path / "*_T2.nii.gz"), "--alignment", "none"])
    assert main([*words[:4], "--alignment", "none"]) == 0
    assert [m.name for m in AtlasFolder(atlas).added] == ["a", "b"]


def test_words_of_the_command_are_checked(atlas: Path, scan, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["atlas", "add", str(atlas), scan("new"), "--replace", "perhaps"])
    assert "must be True or False, got 'perhaps'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'alignment' must be one of affine, rigid, none"):
        add_scans(atlas, [scan("new")], alignment="similar")
    with pytest.raises(FileNotFoundError, match="must hold a finished atlas"):
        add_scans(atlas / "none", [scan("new")])
    masks = [scan("a_mask"), scan("b_mask")]
    with pytest.raises(ValueError, match="of 3 subjects 1 have no mask, such as 'c'"):
        add_scans(atlas, [scan("a", 0.7), scan("b", 0.6), scan("c", 0.5)], masks=masks, alignment="none")
