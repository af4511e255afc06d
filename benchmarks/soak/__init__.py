"""Millions of messages with every fault through one node, and an independent account of each of them."""
