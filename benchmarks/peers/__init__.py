"""The runtimes that Afterimage is compared with, each doing the same job as its users would write it."""
