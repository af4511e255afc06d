"""Bridges: separate processes that carry a node's decisions to other frameworks, and the frameworks' data to the node.

The functions in ``*_mapping.py`` convert messages; they are pure and are tested without the framework.
"""
