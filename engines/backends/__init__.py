"""Backends: the library of each (``onnxruntime``, ``tensorrt``) and its runner, imported only when asked for."""
