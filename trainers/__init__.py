"""Trainers: PyTorch systems that learn from moments and hand over bundles."""
