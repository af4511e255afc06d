"""How fast the engines of a bundle are on this machine, beside PyTorch and beside what the machine allows."""
