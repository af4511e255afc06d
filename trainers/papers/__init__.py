"""The seed papers' tables as protocols: training, measurement, and the numbers that the paper reports."""
