"""Evaluation of a bundle: accuracy in every missing pattern, honesty of its probabilities, quality of imputations."""
