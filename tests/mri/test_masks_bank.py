"""Banks of masks: the patterns of the mask itself, picked by the caller's generator, kept in files and in workers."""

import json
import logging

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import Tensor

from medkit.mri import (
    FileMask,
    GaussianMask2D,
    KtRadialMask,
    MaskBank,
    PoissonDiscMask,
    RandomMask,
    Undersampled,
)
from tests.mri.small_exams import random_kspace


def direct(mask, shape, n, seed):
    rng = np.random.RandomState(seed)
    return [mask.draw(shape, rng) for _ in range(n)]


def is_among(pattern, patterns):
    return any(torch.equal(pattern, one) for one in patterns)


class Once(RandomMask):
    """Lines at random that count how often they are drawn."""

    n_drawn = 0

    def _pattern(self, *arguments):
        Once.n_drawn += 1
        return super()._pattern(*arguments)


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (PoissonDiscMask(0.02, 6), (33, 40)),
        (RandomMask((0.1, 0.05), (4, 8)), (6, 41)),
        (GaussianMask2D(0.02, 4, spatial_dims=3), (5, 9, 11)),
        (KtRadialMask(0.0, 4), (3, 16, 18)),
    ],
)
def test_a_bank_gives_the_patterns_of_direct_draws_and_each_of_them(mask, shape):
    expected = direct(mask, shape, 6, seed=3)
    bank = MaskBank(mask, n=6, seed=3)
    drawn = [bank.draw(shape, np.random.RandomState(i)) for i in range(60)]
    assert all(is_among(pattern, expected) for pattern in drawn)
    assert all(is_among(pattern, drawn) for pattern in expected)
    assert all(pattern.dtype == torch.bool for pattern in drawn)
    assert not all(is_among(pattern, direct(mask, shape, 6, seed=4)) for pattern in drawn)


def test_picks_replay_by_the_generator_and_by_the_name_of_a_case():
    mask = RandomMask(0.1, 4)
    one, other = MaskBank(mask, n=9, shapes=[(8, 64)]), MaskBank(mask, n=9)
    for seed in range(5):
        assert torch.equal(
            one.draw((8, 64), np.random.RandomState(seed)), other.draw((8, 64), np.random.RandomState(seed))
        )
    assert torch.equal(one.set_random_state(2).draw((8, 64)), other.set_random_state(2).draw((8, 64)))
    samples = [{"kspace": random_kspace(2, 8, 64), "case": name} for name in "abcdef"]
    forward = [Undersampled("kspace", one, seed_key="case")(s)["mask"] for s in samples]
    backward = [Undersampled("kspace", other, seed_key="case")(s)["mask"] for s in samples[::-1]][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert any(not torch.equal(forward[0], b) for b in forward)


def test_a_bank_stands_wherever_a_mask_does():
    kspace = random_kspace(2, 3, 24, 30)
    bank = MaskBank(PoissonDiscMask(0.02, 4), n=3)
    measured, image = bank(kspace)
    assert torch.equal(measured, kspace * bank.mask)
    assert image.shape == (2, 24, 30)
    assert (bank.center_fractions, bank.accelerations) == ((0.02,), (4.0,))
    dynamic = MaskBank(KtRadialMask(0.0, 4), n=2, shapes=[(5, 24, 30)])
    assert Undersampled("kspace", dynamic)({"kspace": random_kspace(2, 24, 30, 5)})["mask"].shape == (1, 24, 30, 5)
    assert dynamic(random_kspace(5, 2, 24, 30))[0].shape == (5, 2, 24, 30)


def test_each_size_is_drawn_once_and_the_one_not_needed_for_longest_is_forgotten():
    Once.n_drawn = 0
    bank = MaskBank(Once(0.1, 4), n=5, shapes=[(4, 20), (4, 20)], max_shapes=2)
    assert Once.n_drawn == 5
    for _ in range(3):
        bank.draw((4, 20)), bank.draw((4, 30))
    assert Once.n_drawn == 10
    bank.draw((4, 20)), bank.draw((4, 40)), bank.draw((4, 20))
    assert Once.n_drawn == 15, "(4, 30) was forgotten, not (4, 20)"
    bank.draw((4, 30))
    assert Once.n_drawn == 20


def test_a_file_saves_drawing_and_takes_further_sizes(tmp_path, caplog):
    caplog.set_level(logging.INFO, "medkit.mri.masks.stored")
    path, shape = tmp_path / "banks" / "poisson.npz", (4, 20)
    expected = direct(RandomMask(0.1, 4), shape, 4, seed=1)
    Once.n_drawn = 0
    first = MaskBank(Once(0.1, 4), n=4, seed=1, shapes=[shape], path=path)
    before = path.read_bytes()
    assert "MaskBank: drawing 4 patterns (4, 20) of Once" in caplog.text
    again = MaskBank(Once(0.1, 4), n=4, seed=1, shapes=[shape], path=path)
    assert Once.n_drawn == 4
    assert path.read_bytes() == before
    for seed in range(10):
        picked = again.draw(shape, np.random.RandomState(seed))
        assert torch.equal(picked, first.draw(shape, np.random.RandomState(seed)))
        assert is_among(picked, expected)
    MaskBank(Once(0.1, 4), n=4, seed=1, shapes=[(4, 30)], path=str(path))
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["4x20", "4x30", "facts"]
        assert file["4x20"].dtype == bool
        assert torch.equal(torch.from_numpy(file["4x20"]), torch.stack(expected))
        assert json.loads(str(file["facts"]))["seed"] == 1
    assert list(path.parent.iterdir()) == [path], "nothing half-written is left"


def rewritten(path, **changes):
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: rewritten(path, **{"4x20": np.ones((4, 1, 19), dtype=bool)}), "must hold 4 bool patterns"),
        (lambda path: rewritten(path, **{"4x20": np.ones((3, 1, 20), dtype=bool)}), "must hold 4 bool patterns"),
        (lambda path: rewritten(path, **{"4x20": np.ones((4, 1, 20))}), "got float64"),
        (lambda path: rewritten(path, **{"weights": np.ones((4, 1, 20), dtype=bool)}), "for k-space weights"),
        (lambda path: rewritten(path, facts=None), "says not of what it is"),
        (lambda path: rewritten(path, facts=np.array({"a": 1}, dtype=object)), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot be read"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
    ],
)
def test_files_that_are_no_banks_are_refused_and_left_alone(spoil, words, tmp_path):
    path = tmp_path / "bank.npz"
    MaskBank(RandomMask(0.1, 4), n=4, shapes=[(4, 20)], path=path)
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"MaskBank: .*{words}"):
        MaskBank(RandomMask(0.1, 4), n=4, shapes=[(4, 20)], path=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("mask", "changes"),
    [
        (RandomMask(0.1, 4), {"seed": 1}),
        (RandomMask(0.1, 4), {"n": 3}),
        (RandomMask(0.1, 5), {}),
        (Once(0.1, 4), {}),
    ],
)
def test_a_file_of_other_patterns_is_refused(mask, changes, tmp_path):
    path = tmp_path / "bank.npz"
    MaskBank(RandomMask(0.1, 4), n=4, shapes=[(4, 20)], path=path)
    with pytest.raises(ValueError, match=r'holds patterns of .*"seed": 0.*wanted are .*give another path, or delete'):
        MaskBank(mask, **{"n": 4, "shapes": [(4, 20)], "path": path, **changes})


def test_workers_use_what_was_drawn_before_they_started():
    bank = MaskBank(PoissonDiscMask(0.05, 4), n=4, seed=2, shapes=[(16, 18)])
    data = Dataset([{"kspace": random_kspace(1, 16, 18), "case": str(i)} for i in range(4)],
                   Undersampled("kspace", bank, seed_key="case"))  # fmt: skip
    loaded = [item["mask"][0] for item in DataLoader(data, num_workers=1)]
    assert all(torch.equal(a, data[i]["mask"]) for i, a in enumerate(loaded))
    assert all(is_among(mask[0], direct(bank.source, (16, 18), 4, 2)) for mask in loaded)


def test_what_travels_to_workers_is_shared_memory_and_what_is_kept_are_bits():
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing  # noqa: F401  it teaches the pickler of workers to share tensors

    bank = MaskBank(GaussianMask2D(0.01, 8), n=50, shapes=[(64, 64)])
    ((_, bits),) = bank._kept.values()
    assert isinstance(bits, Tensor)
    assert bits.numel() == 50 * 64 * 64 // 8
    assert len(ForkingPickler.dumps(bank)) < bits.numel() / 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: MaskBank("poisson"), "'mask' must be a sampling mask such as PoissonDiscMask"),
        (lambda path: MaskBank(MaskBank(RandomMask(0.1, 4))), "'mask' must be a sampling mask"),
        (lambda path: MaskBank(RandomMask(0.1, 4), n=0), "'n' must be at least 1"),
        (lambda path: MaskBank(RandomMask(0.1, 4), shapes=[(4, 0)]), "each of 'shapes' must be 2 positive sizes"),
        (lambda path: MaskBank(KtRadialMask(), shapes=[(4, 8)]), "each of 'shapes' must be 3 positive sizes"),
        (lambda path: MaskBank(RandomMask(0.1, 4), shapes=[(4, 8), (4, 9)], max_shapes=1), "'max_shapes' must be"),
        (lambda path: MaskBank(RandomMask(0.1, 4), path=path / "bank.npy"), "'path' must end in .npz"),
        (lambda path: MaskBank(RandomMask(0.1, 4)).draw((8,)), "'shape' must be 2 positive sizes"),
        (lambda path: Undersampled("kspace", MaskBank(RandomMask(0.1, 4, spatial_dims=3))), "SamplingMask of 2 axes"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        call(tmp_path)


def test_facts_tell_files_apart(tmp_path):
    for name, lines in (("a", [1, 0, 1]), ("b", [0, 1, 1])):
        np.save(tmp_path / f"{name}.npy", np.array(lines))
    MaskBank(FileMask(tmp_path / "a.npy"), n=1, shapes=[(2, 3)], path=tmp_path / "bank.npz")
    with pytest.raises(ValueError, match="holds patterns of"):
        MaskBank(FileMask(tmp_path / "b.npy"), n=1, shapes=[(2, 3)], path=tmp_path / "bank.npz")
