"""Parts of measurements: calls timed turn by turn, processes, the machine, the least time that a graph can take."""
