"""ISMRMRD raw files of a phantom whose k-space is known, written by the format's own library."""

from __future__ import annotations

from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import torch
from ismrmrd import xsd
from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

from medkit.data import head_phantom
from medkit.ops import centered_fft

FOV = (400.0, 200.0, 5.0)
READ, PHASE = np.array([0.0, 0.6, 0.8]), np.array([1.0, 0.0, 0.0])
NORMAL = np.cross(READ, PHASE)


def phantom_slices(n_slices=3, n_coils=2, size=(32, 20), seed=0):
    """Return images, complex64 ``(slice, coil, H, W)``: a head, weaker from slice to slice, seen by smooth coils."""
    rng = np.random.default_rng(seed)
    image = head_phantom(2).image(size).to(torch.complex64)
    row, column = (torch.linspace(-1, 1, n) for n in size)
    coils = [torch.polar(1 + 0.5 * a * row[:, None] + 0.5 * b * column, a * column + b * row[:, None]) for a, b in
             rng.uniform(-1, 1, (n_coils, 2)).tolist()]  # fmt: skip
    return torch.stack([image * torch.stack(coils) / (1 + 0.2 * i) for i in range(n_slices)])


def kspace_of(images):
    return centered_fft(images).numpy()


def header(matrix, recon=None, trajectory="cartesian", centres=None, fov=FOV):
    def space(size, fov_mm):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=size[0], y=size[1], z=size[2]),
            fieldOfView_mm=xsd.fieldOfViewMm(x=fov_mm[0], y=fov_mm[1], z=fov_mm[2]),
        )

    recon = recon or matrix
    recon_fov = [f * r / m for f, r, m in zip(fov, recon, matrix, strict=True)]
    first, second = centres or (matrix[1] // 2, matrix[2] // 2)
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=matrix[1] - 1, center=first),
        kspace_encoding_step_2=xsd.limitType(minimum=0, maximum=matrix[2] - 1, center=second),
    )
    encoding = xsd.encodingType(
        encodedSpace=space(matrix, fov),
        reconSpace=space(recon, recon_fov),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(trajectory),
    )
    system = xsd.acquisitionSystemInformationType(systemVendor="ACME", systemFieldStrength_T=2.89)
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_000_000)
    return xsd.ismrmrdHeader(
        experimentalConditions=conditions, acquisitionSystemInformation=system, encoding=[encoding]
    ).toXML("utf-8")


def line(samples, place=0, step=0, partition=0, flags=(), centre=None, traj=None, **idx):
    """Return one readout, samples complex ``(coil, n)``, of a slice of an oblique stack 6 mm apart."""
    readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64), traj)
    readout.center_sample = samples.shape[1] // 2 if centre is None else centre
    readout.idx.slice, readout.idx.kspace_encode_step_1, readout.idx.kspace_encode_step_2 = place, step, partition
    for name, value in idx.items():
        setattr(readout.idx, name, value)
    readout.position[:] = np.array([10.0, -20.0, 30.0]) + 6.0 * place * NORMAL
    readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = READ, PHASE, NORMAL
    readout.sample_time_us = 5.0
    for flag in flags:
        readout.setFlag(flag)
    return readout


def slice_lines(kspace, steps=None, place=0, **options):
    """Return the readouts of a slice, k-space ``(coil, H, W)``."""
    return [
        line(kspace[:, :, step], place, step, **options)
        for step in (range(kspace.shape[2]) if steps is None else steps)
    ]


def write(path: Path, readouts, xml, own_writer=False):
    """Write a file in the library's types at once; ``own_writer``: by its own, slow ``append_acquisition``."""
    with ismrmrd.Dataset(str(path)) as file:
        file.write_xml_header(xml)
        for readout in readouts if own_writer else ():
            file.append_acquisition(readout)
    if not own_writer:
        records = np.empty(len(readouts), acquisition_dtype)
        for record, readout in zip(records, readouts, strict=True):
            record["head"] = np.frombuffer(readout.getHead(), acquisition_header_dtype)[0]
            record["data"], record["traj"] = readout.data.view(np.float32).ravel(), readout.traj.ravel()
        with h5py.File(path, "r+") as file:
            file.create_dataset("dataset/data", data=records, maxshape=(None,))
    return path
