"""Losses as pure functions of tensors; each docstring names the paper's equation."""
