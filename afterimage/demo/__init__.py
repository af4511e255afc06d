"""The demo: play test recordings as live sensors, break them on a schedule, and report what the runtime made of it."""
