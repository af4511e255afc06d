"""The pure core: what the node decides, as functions of (events, now). No sockets, no threads, no sleeping."""
