"""Adapters: one file per kind of source, which imports its library only when a sensor of that kind is opened."""
