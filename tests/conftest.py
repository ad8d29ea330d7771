"""What every test shares: few threads, no network, a marked test that cannot run says why."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")

import pytest

from tests.tiny_bundle import write_tiny_bundle

REPOSITORY = Path(__file__).resolve().parent.parent


def real_data_folder() -> Path:
    """Return the folder of real images: ``$MEDKIT_REAL_DATA``, else ``shared/data`` beside the repository."""
    return Path(os.environ.get("MEDKIT_REAL_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip ``gpu`` tests without CUDA and ``real`` tests without the real images, with the reason."""
    marked_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if marked_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in marked_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if not real_data_folder().is_dir():
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(
                    pytest.mark.skip(reason=f"no real images in {real_data_folder()}: set MEDKIT_REAL_DATA")
                )


@pytest.fixture
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real images; use with ``@pytest.mark.real``."""
    return real_data_folder()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return the bundle ``tiny``, in a folder of its own."""
    return write_tiny_bundle(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short training of clgnet, run from another folder by the command in its README."""
    from tests.bundle_runs import CLGNET, command, typed

    folder = tmp_path_factory.mktemp("trained")
    done = typed(folder, command(CLGNET, ["train", "small"], "--output_dir", str(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def trained_mdrn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short training of mdrn."""
    from tests.bundle_runs import MDRN, run

    folder = tmp_path_factory.mktemp("trained_mdrn")
    run(MDRN, ["train", "small"], output_dir=str(folder))
    return folder
