"""What stops an export."""


class ExportRefused(Exception):
    """The module cannot be exported so that the file answers as it does. Nothing was written."""


class UnsupportedLayer(ExportRefused):
    """A recurrent layer, or a use of one, that the ONNX operators cannot express."""
