"""Hand-over of trained networks to other programs: TorchScript and ONNX files that are checked before they are kept."""

from medkit.export.onnx_files import to_onnx
from medkit.export.parity import ExportReport
from medkit.export.torchscript_files import to_torchscript

__all__ = ["ExportReport", "to_onnx", "to_torchscript"]
