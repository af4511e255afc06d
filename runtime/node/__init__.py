"""The node: the process that takes sensors' frames in and publishes decisions; a thin shell around ``runtime.core``."""
