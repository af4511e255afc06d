"""Configuration: the shipped YAML files (rigs, models, targets) and the one way all of them are read and checked."""
