"""A rig of real sources, live: every source is killed and has to come back."""
