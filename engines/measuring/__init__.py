"""How fast the graphs of a bundle are: calls timed turn by turn, the machine, and the least time they could take."""
