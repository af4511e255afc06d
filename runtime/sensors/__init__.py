"""Sensors: sources of signals, playing them live, spoiling them on purpose, and publishing them."""
