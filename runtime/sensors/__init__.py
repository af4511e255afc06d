"""Sensors: reading devices, files, streams and recorded moments, and publishing them, in a process per sensor."""
