"""Training data: windows cut from moments, batches with exact resume, planned missingness."""
