"""Benchmarks for those who develop Afterimage: ``python -m benchmarks``, from a clone of the repository."""
