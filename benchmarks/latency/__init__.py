"""The latency benchmark with peers, and with every sensor at its full rate."""
