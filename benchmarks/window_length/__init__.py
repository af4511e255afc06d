"""What the window length of each sensor costs in accuracy."""
