"""Transport: the ZeroMQ sockets of the runtime, with encryption, admission of keys, and the control channel."""
