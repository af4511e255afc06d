"""The pure core: what a node decides, as functions of (events, now). No sockets, threads, sleeping or logging."""
