"""From a folder of ONNX files to models that are known to be exact."""
