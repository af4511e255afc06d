"""Fusion of evidence: Gaussians in precision space, replacement experts, association paths."""
