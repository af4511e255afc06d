"""Measurements of this machine: how fast the engines are here, and what bounds them."""
