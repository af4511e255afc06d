"""Compile and execute model bundles on ONNX Runtime, TensorRT and TensorRT-RTX; no torch."""
