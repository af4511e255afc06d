"""Compile and execute model bundles on ONNX Runtime, TensorRT and TensorRT-RTX; no torch.

Imports run one way: the data (:mod:`~engines.errors`, ``refinement``, ``bundle``, ``targets``, ``engine``) is at the
bottom; above it :mod:`~engines.backends`, then the session (``arguments``, ``session``, ``opening``), and
:mod:`~engines.compiling` at the top.
"""
