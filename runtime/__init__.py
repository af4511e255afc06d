"""The runtime: sensors in over ZeroMQ, health, alignment and fusion, decisions out. No torch."""
