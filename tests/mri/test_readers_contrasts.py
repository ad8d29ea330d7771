"""A contrast that no examination has, misspelt perhaps: the error tells which there are."""

import json

import numpy as np
import pytest

from medkit.mri import pair_list


@pytest.fixture
def folder(tmp_path):
    for i in range(2):
        for contrast in ("T1", "T2", "PD"):
            np.save(tmp_path / f"IXI00{i}-{contrast}.npy", np.ones((4, 6, 6), np.float32))
    return tmp_path


@pytest.mark.parametrize(("target", "guides", "absent"), [("t22", "t1", "t22"), ("t2", ["pd", "t11"], "t11")])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_contrast_that_is_nowhere_is_refused_with_those_that_are(folder, target, guides, absent, skip_bad):
    words = rf"contrasts of the exams of .*, none has {absent}; name some of pd, t1, t2, or add the files"
    with pytest.raises(ValueError, match=words):
        pair_list(folder, target=target, guides=guides, skip_bad=skip_bad)
    row = {"t1": "IXI000-T1.npy", "T2w": "IXI000-T2.npy", "pd": "IXI000-PD.npy", "case": "a"}
    (folder / "list.json").write_text(json.dumps({"train": [row]}))
    with pytest.raises(ValueError, match=words):
        pair_list(folder / "list.json", target=target, guides=guides, skip_bad=skip_bad)


def test_where_none_is_right_too(folder):
    with pytest.raises(ValueError, match="which are pd, t1, t2, got t22, t11; give those, rename the files"):
        pair_list(folder, target="t22", guides="t11")


def test_of_references_by_themselves_one_that_is_nowhere_is_warned_of(folder, caplog):
    options = {"per": "volume", "slice_axis": 0}
    assert len(pair_list(folder, guides=["t1", "t11"], each_guide=True, **options)) == 2
    assert f"No exam of {folder} has the contrasts t11; it has pd, t1, t2" in caplog.messages
    with pytest.raises(ValueError, match="none has t11, t12"):
        pair_list(folder, guides=["t11", "t12"], each_guide=True, **options)
