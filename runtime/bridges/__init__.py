"""Bridges: processes of their own that carry a node's decisions into other frameworks, and their data to the node.

What a message becomes is a pure function in ``*_mapping.py``, tested without the framework; the rest is its plumbing.
"""
