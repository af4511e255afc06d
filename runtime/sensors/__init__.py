"""Sensors: reading devices, files and streams, playing recorded signals live, spoiling them on purpose, publishing."""
