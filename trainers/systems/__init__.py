"""The seed systems, one file each, behind one interface (:mod:`trainers.systems.base`)."""
