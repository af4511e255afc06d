"""Adapters: one file per kind of source, each importing its library only when a sensor of that kind is opened."""
