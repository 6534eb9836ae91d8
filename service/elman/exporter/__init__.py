"""From a torch module to an ONNX file. The only room that imports torch."""

from elman.exporter.export import ExportRefused, export

__all__ = ["ExportRefused", "export"]
