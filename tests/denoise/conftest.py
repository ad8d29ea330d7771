"""DICOM is tested where pydicom is installed: with it MONAI's LoadImage warns wherever nvImageCodec is missing."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("pydicom") else ["*dicom_*.py"]
