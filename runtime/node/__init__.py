"""The node: the process that receives sensors' frames and publishes decisions; a thin shell around ``runtime.core``."""
