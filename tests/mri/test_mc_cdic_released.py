"""The warning where the released weights are used for what they were not trained for."""

import pytest
import torch
from ignite.engine import Engine

from medkit.mri import CentreMask, CheckReleasedWeights, MCCDic, PackedMultiContrast, RandomMask

WORDS = "The released weights of MC-CDic were trained for "


def warnings_of(caplog, weights="models/../models/model.pt", n_guides=1, n_coils=0, mask=None):
    caplog.clear()
    network = PackedMultiContrast(MCCDic(preset="small", in_channels=2, ref_channels=n_guides))
    engine = Engine(lambda engine, batch: None)
    CheckReleasedWeights(weights, "models/model.pt", network, mask or RandomMask()).attach(engine)
    engine.run([{"image": torch.zeros(1, 3 + n_guides + 2 * n_coils, 4, 4)}] * 2)
    return [text.removeprefix(WORDS).split(":")[0] for text in caplog.messages]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ({"n_guides": 2}, "one reference, this run has 2 of them"),
        ({"n_coils": 4}, "one coil, this run has 4 of them"),
        ({"n_coils": 3, "n_guides": 1}, "one coil, this run has 3 of them"),
        ({"mask": CentreMask(2)}, "samples spread over k-space, this run has super-resolution, which has its centre"),
    ],
)
def test_another_use_is_warned_of_once(use, words, caplog):
    (said,) = warnings_of(caplog, **use)
    assert said.startswith(words)


def test_their_own_use_and_other_weights_are_not(caplog):
    assert warnings_of(caplog) == warnings_of(caplog, n_coils=1) == []
    for weights in ("runs/mine/model.pt", None):
        assert warnings_of(caplog, weights, n_guides=2, n_coils=4, mask=CentreMask(2)) == []
