"""Recording a node to MCAP, reading recordings, and replaying them."""
