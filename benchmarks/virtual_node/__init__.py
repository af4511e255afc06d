"""A whole node on a virtual clock with real sockets, its sensors, and every fault that they can have."""
