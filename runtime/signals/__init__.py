"""Signals: recorded and synthetic moments, their playback along a plan, and faults that spoil them on purpose."""
