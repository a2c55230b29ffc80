"""Models out to ONNX, with a runner of one file that needs neither torch nor autolmk. Here may stand what exported
models need: graphs, the numbers around them, and what computes in NumPy in torch's place."""

from autolmk.export_onnx.export import export_onnx

__all__ = ["export_onnx"]
