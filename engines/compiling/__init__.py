"""Bundle to engine: reduced precision by measurement, parity with PyTorch, and the accuracy gate."""
