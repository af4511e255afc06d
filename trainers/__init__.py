"""Trainers: PyTorch systems that learn from moments and hand over bundles.

Imports run one way, from the bottom: :mod:`~trainers.data`, ``modalities``, ``fusion`` and ``objectives``; the systems
made of them; ``evaluation`` and ``calibration`` of a system; ``configuration``, ``build``, ``loop`` and ``export`` of a
run; ``training`` and ``checkpoint_evaluation``, which do it all; and :mod:`~trainers.papers` at the top.
"""
