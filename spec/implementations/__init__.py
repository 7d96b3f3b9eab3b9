"""Implementations that the suite is tried on: NumPy, torch eager, torch.compile, other summation orders, float64."""
