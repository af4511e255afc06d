"""Transport: the ZeroMQ edge of the runtime, where parts of messages come in and go out."""
