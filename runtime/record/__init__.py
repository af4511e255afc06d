"""Recording to MCAP, reading recordings back, and running them again."""
