"""Configuration: the shipped YAML files (rigs, models, targets), how they are read, and the root of all errors."""
