"""From a torch module to an ONNX file. The only room that imports torch."""

try:
    from elman.exporter.calibrating import calibrate
    from elman.exporter.errors import ExportRefused
    from elman.exporter.export import export
except ImportError as error:
    raise ImportError(f"exporting needs more than is installed: pip install 'elman[train]' ({error})") from error

__all__ = ["ExportRefused", "calibrate", "export"]
