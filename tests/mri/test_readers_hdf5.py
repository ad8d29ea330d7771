"""HDF5 exams: what is written is read, one slice at a time, with the facts of the header."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
import torch

from medkit.mri import LoadAcquisitiond, open_acquisition
from medkit.ops import centered_fft

HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemVendor>ACME</systemVendor><systemFieldStrength_T>2.89</systemFieldStrength_T>
</acquisitionSystemInformation><encoding>
<encodedSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>480</x><y>220</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>6</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>240</x><y>220</y><z>5</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""


def kspace_of(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write(path, attributes=(), **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
        file.attrs.update(dict(attributes))
    return path


def test_slices_of_fastmri_come_back_as_written(tmp_path):
    kspace = kspace_of(5, 3, 12, 10)
    exam = open_acquisition(write(tmp_path / "brain.h5", kspace=kspace))
    assert (exam.name, exam.kind, exam.n_slices, exam.n_coils, exam.shape) == ("brain", "kspace", 5, 3, (12, 10))
    for i in range(5):
        part = exam.read_slice(i)
        assert part.dtype == torch.complex64
        assert part.is_contiguous()
        np.testing.assert_array_equal(part.numpy(), kspace[i])
    np.testing.assert_array_equal(exam.read_volume().numpy(), np.moveaxis(kspace, 0, -1))
    np.testing.assert_array_equal(exam.read_volume(3, 2).numpy(), np.moveaxis(kspace[3:], 0, -1))
    for first, n_slices in ((5, None), (3, 3), (0, 0), (-1, 1)):
        with pytest.raises(ValueError, match="must be"):
            exam.read_volume(first, n_slices)
    assert exam.file_mask is None


def test_repetitions_become_their_mean(tmp_path):
    kspace = kspace_of(5, 2, 3, 12, 10)
    path = write(tmp_path / "a.h5", kspace=kspace)
    exam = open_acquisition(path, axes=("slice", "average", "coil", "H", "W"))
    np.testing.assert_allclose(exam.read_slice(4).numpy(), kspace[4].mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"axes='slice,average,coil,H,W' where the scan was repeated"):
        open_acquisition(path)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (6, 10)),
        ({"<x>240</x>": "<x>200</x>"}, None),  # the scanner interpolates
        ({"<x>6</x>": "<x>13</x>", "<x>240</x>": "<x>520</x>"}, None),
        ({"<x>6</x>": "<x>12</x>", "<x>240</x>": "<x>480</x>"}, None),  # nothing is cut off
        ({"<reconSpace>": "<limits>", "</reconSpace>": "</limits>"}, None),
    ],
)
def test_the_size_without_oversampling_is_the_headers(tmp_path, changes, size):
    header = HEADER
    for old, new in changes.items():
        header = header.replace(old, new)
    path = write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10), ismrmrd_header=header)
    for sample in ({"path": path}, {"path": path, "i_slice": 1}):
        d = LoadAcquisitiond()(sample)
        assert tuple(d.get("recon_size", [])) == (size or ())
    image = write(tmp_path / "b.h5", reconstruction_rss=np.ones((3, 6, 10)), ismrmrd_header=HEADER)
    assert "recon_size" not in LoadAcquisitiond()({"path": image})


def test_single_coil_gets_a_coil_axis(tmp_path):
    kspace = kspace_of(4, 12, 10)
    exam = open_acquisition(write(tmp_path / "knee.h5", kspace=kspace))
    assert (exam.n_slices, exam.n_coils) == (4, 1)
    np.testing.assert_array_equal(exam.read_slice(3).numpy(), kspace[3][None])


def test_one_slice_is_read_and_no_other(tmp_path):
    """All chunks but one are destroyed on disk; the one is still read, a destroyed one is an error."""
    kspace = kspace_of(6, 2, 12, 10)
    path = tmp_path / "chunks.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "kspace", data=kspace, chunks=(1, 2, 12, 10), compression="gzip", shuffle=True, fletcher32=True
        )
        spoilt = [data.id.get_chunk_info(i) for i in range(6) if i != 4]
    with path.open("r+b") as stream:
        for chunk in spoilt:
            stream.seek(chunk.byte_offset)
            stream.write(b"\xff" * chunk.size)
    exam = open_acquisition(path)
    np.testing.assert_array_equal(exam.read_slice(4).numpy(), kspace[4])
    with pytest.raises(ValueError, match=r"slice 2 of .*chunks.h5 cannot be read"):
        exam.read_slice(2)
    with pytest.raises(ValueError, match=r"slices 0 to 5 of .*chunks.h5 cannot be read"):
        exam.read_volume()


def test_opening_reads_no_samples(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10), ismrmrd_header=HEADER)
    taken = []
    original = h5py.Dataset.__getitem__

    def counted(self, index, *rest, **options):
        taken.append((self.name, index))
        return original(self, index, *rest, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    exam = open_acquisition(path)
    assert [name for name, _ in taken] == ["/ismrmrd_header"]
    exam.read_slice(1)
    assert taken[1:] == [("/kspace", (1, slice(None), slice(None), slice(None)))]


def test_the_tensor_owns_its_memory(tmp_path):
    path = write(tmp_path / "a.h5", kspace=kspace_of(2, 1, 12, 10))
    exam = open_acquisition(path)
    first = exam.read_slice(0)
    kept = first.clone()
    exam.read_slice(0).zero_()
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


@pytest.mark.parametrize(("space", "name", "spacing"), [("kspace", "kspace", 40), ("image", "reconstruction_rss", 40)])
def test_spacing_is_field_of_view_over_samples(tmp_path, space, name, spacing):
    data = kspace_of(3, 2, 12, 10) if space == "kspace" else np.ones((3, 6, 10), np.float32)
    exam = open_acquisition(
        write(tmp_path / "a.h5", {"acquisition": "AXT2", "max": 0.5}, ismrmrd_header=HEADER, **{name: data})
    )
    assert exam.has_geometry
    np.testing.assert_allclose(exam.affine, np.diag([spacing, 22, 5, 1]))
    np.testing.assert_allclose(exam.slice_affine(2) @ [0, 0, 0, 1], [0, 0, 10, 1])
    assert exam.header["acquisition"] == "AXT2"
    assert exam.header["recon_matrix"] == (6, 10, 1)
    assert exam.header["field_strength_t"] == 2.89
    assert exam.kind == ("kspace" if space == "kspace" else "magnitude")


def test_zero_padded_columns_keep_the_field_of_view(tmp_path):
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 20), ismrmrd_header=HEADER))
    np.testing.assert_allclose(np.diag(exam.affine), [40, 11, 5, 1])


@pytest.mark.parametrize(
    "header",
    [
        "not xml",
        "<a>",
        b"\xff\xfe",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        HEADER.replace(">480<", ">many<"),
        HEADER.replace(">480<", ">0<"),
        HEADER.replace("fieldOfView_mm", "elsewhere"),
        np.arange(3),
    ],
)
def test_a_bad_header_costs_the_geometry_and_nothing_else(tmp_path, header):
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10), ismrmrd_header=header))
    assert not exam.has_geometry
    np.testing.assert_array_equal(exam.affine, np.eye(4))
    assert exam.read_slice(0).shape == (2, 12, 10)


def test_the_stored_mask_is_the_file_mask(tmp_path):
    mask = np.array([0, 1, 0, 1, 1, 1, 0, 1, 0, 0], np.float32)
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10) * mask, mask=mask))
    assert exam.file_mask.dtype == torch.bool
    np.testing.assert_array_equal(exam.file_mask.numpy(), mask[None, None] > 0)
    full = write(tmp_path / "full.h5", kspace=kspace_of(3, 2, 12, 10), mask=np.ones(10))
    assert open_acquisition(full).file_mask is None


def test_a_mask_of_another_size_is_refused(tmp_path):
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10), mask=np.ones(7)))
    with pytest.raises(
        ValueError,
        match=r"open_acquisition: the dataset 'mask' in .*a.h5 must have shape \(10,\) or \(12, 10\).*got \(7,\)",
    ):
        _ = exam.file_mask


@pytest.mark.parametrize(
    ("axes", "order"), [("coil,H,slice,W", (1, 2, 0, 3)), ("H,W,coil,slice", (2, 3, 1, 0)), (None, (0, 1, 2, 3))]
)
def test_named_axes(tmp_path, axes, order):
    kspace = kspace_of(4, 3, 12, 10)
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace.transpose(order)), axes=axes)
    assert (exam.n_slices, exam.n_coils, exam.shape) == (4, 3, (12, 10))
    np.testing.assert_array_equal(exam.read_slice(2).numpy(), kspace[2])


def test_real_and_imaginary_parts_in_an_axis(tmp_path):
    kspace = kspace_of(4, 3, 12, 10)
    parts = np.stack([kspace.real, kspace.imag], -1)
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=parts))
    np.testing.assert_array_equal(exam.read_slice(1).numpy(), kspace[1])
    in_turn = parts.transpose(0, 2, 3, 1, 4).reshape(4, 12, 10, 6)
    exam = open_acquisition(write(tmp_path / "b.h5", kspace=in_turn), axes="slice,H,W,coil_ri")
    assert exam.n_coils == 3
    np.testing.assert_array_equal(exam.read_slice(1).numpy(), kspace[1])
    with pytest.raises(ValueError, match=r"k-space in .*b.h5 must be complex.*coil_ri"):
        open_acquisition(tmp_path / "b.h5", domain="kspace", axes="slice,H,W,coil")


def test_matlab_v73_in_the_order_of_matlab(tmp_path):
    kspace = kspace_of(12, 10, 4, 3)  # as size(x) says in MATLAB: H, W, slice, coil
    record = np.zeros(kspace.shape, [("real", "f8"), ("imag", "f8")])
    record["real"], record["imag"] = kspace.real, kspace.imag
    path = write(tmp_path / "a.mat", raw=record.T, name=np.ones((1, 5), np.uint16), scalar=np.ones((1, 1)))
    for axes in (None, "H,W,slice,coil"):
        exam = open_acquisition(path, axes=axes)
        assert (exam.n_slices, exam.n_coils, exam.shape) == (4, 3, (12, 10))
        np.testing.assert_array_equal(exam.read_slice(2).numpy(), kspace[:, :, 2].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(16, 18), (15, 16), (7, 9)])
def test_zero_frequency_is_moved_to_the_middle(tmp_path, size):
    image = torch.from_numpy(kspace_of(2, 1, *size))
    stored = torch.fft.fft2(image, norm="ortho")
    stored[..., 3] = 0
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=stored.numpy()), centred=False)
    kspace = centered_fft(image)
    kspace[..., (3 + size[1] // 2) % size[1]] = 0
    torch.testing.assert_close(exam.read_slice(1), kspace[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(exam.read_volume()[..., 1], kspace[1], atol=1e-4, rtol=1e-4)
    assert exam.file_mask is not None, "zeros stay exactly zero"
    assert int(exam.file_mask.sum()) == size[1] - 1


def test_kspace_with_its_centre_in_the_corner_is_warned_of_once(tmp_path, caplog):
    image = np.ones((2, 1, 32, 32), np.complex64)
    path = write(tmp_path / "a.h5", kspace=np.fft.fft2(image, norm="ortho").astype(np.complex64))
    with caplog.at_level(logging.WARNING):
        exam = open_acquisition(path)
        exam.read_slice(0)
        exam.read_slice(1)
        open_acquisition(path, centred=False).read_slice(0)
    assert [record.message for record in caplog.records] == [
        f"The k-space in {path} is strongest in its corners, as if its zero frequency were at index 0: read it with "
        "centred=False"
    ]


def test_complex_images_become_kspace(tmp_path):
    images = kspace_of(4, 12, 10)
    exam = open_acquisition(write(tmp_path / "a.h5", images=images))
    assert exam.kind == "kspace"
    torch.testing.assert_close(exam.read_slice(1), centered_fft(torch.from_numpy(images[1:2])))
    assert exam.file_mask is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(0, -np.inf)])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    kspace = kspace_of(3, 2, 12, 10)
    kspace[1, 0, 4, 5] = bad
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace))
    exam.read_slice(0)
    for read in (lambda: exam.read_slice(1), exam.read_volume):
        with pytest.raises(ValueError, match=r"slice 1 of .*a.h5 must hold finite values, got 1 of 240"):
            read()


def test_large_finite_values_are_fine(tmp_path):
    kspace = np.full((1, 1, 12, 10), 3e38, np.complex64)  # their sum is not finite in float32
    assert open_acquisition(write(tmp_path / "a.h5", kspace=kspace)).read_slice(0).isfinite().all()


def test_one_pixel(tmp_path):
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(1, 1, 1, 1)), key="kspace")
    assert exam.read_volume().shape == (1, 1, 1, 1)


@pytest.mark.parametrize("index", [-1, 3, 1.0, "1", None])
def test_a_slice_that_is_not_there(tmp_path, index):
    exam = open_acquisition(write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10)))
    with pytest.raises(ValueError, match="'i_slice' must be"):
        exam.read_slice(index)


def test_a_rewritten_file_is_read_anew(tmp_path):
    path = write(tmp_path / "a.h5", kspace=np.ones((3, 2, 12, 10), np.complex64))
    assert open_acquisition(path).read_slice(0).real.max() == 1
    path.unlink()
    write(path, kspace=np.full((5, 2, 12, 10), 2, np.complex64))
    assert open_acquisition(path).n_slices == 5
    assert open_acquisition(path).read_slice(0).real.max() == 2


def test_truncated(tmp_path):
    path = write(tmp_path / "a.h5", kspace=kspace_of(3, 2, 12, 10))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"a.h5 must be an HDF5 file.*copy or download it again"):
        open_acquisition(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(ValueError, match=r"a.h5 must be an HDF5 file"):
        open_acquisition(path)


@pytest.mark.parametrize(
    ("datasets", "options", "message"),
    [
        ({"a": np.ones((3, 4)), "b": np.ones((3, 4))}, {}, r"must hold 'kspace'.*a \(3, 4\), b \(3, 4\); say which"),
        ({"label": np.ones(3)}, {}, r"it holds no array of 2 axes"),
        ({"kspace": kspace_of(3, 4)}, {"key": "other"}, r"'key' must name a dataset of .*kspace \(3, 4\)"),
        ({"kspace": kspace_of(1, 2, 3, 4, 5)}, {}, r"only 2, 3 or \(k-space\) 4 axes can be guessed"),
        ({"kspace": kspace_of(2, 9, 5, 4)}, {}, r"it would have 9 coils of 5 x 4 samples"),
        ({"kspace": kspace_of(0, 2, 5, 4)}, {"key": "kspace"}, r"axis 'slice' .* at least one entry, got 0"),
        ({"kspace": kspace_of(3, 4)}, {"axes": "slice,H,W"}, r"names 3 axes .* has 2"),
        ({"kspace": kspace_of(3, 4, 5)}, {"axes": "slices,H,W"}, r"'axes' must name H and W once.*got 'slices,H,W'"),
        ({"kspace": kspace_of(3, 4, 5)}, {"axes": "H,H,W"}, r"'axes' must name H and W once"),
        ({"kspace": kspace_of(3, 4, 5)}, {"axes": "1,H,W"}, r"axis '1' .* must have length 1, got 3"),
        ({"kspace": kspace_of(3, 4, 2)}, {"axes": "H,W,ri"}, r"already complex"),
        ({"kspace": np.ones((3, 4, 5))}, {"domain": "kspace"}, r"must be complex"),
        ({"kspace": kspace_of(3, 4)}, {"domain": "fourier"}, r"'domain' must be 'kspace', 'image' or None"),
    ],
)
def test_contents_that_cannot_be_read(tmp_path, datasets, options, message):
    path = write(tmp_path / "a.h5", **datasets)
    with pytest.raises(ValueError, match=message):
        open_acquisition(path, **options)
