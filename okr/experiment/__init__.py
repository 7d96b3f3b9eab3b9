"""Experiments: configuration, generation in two groups, results and report; calibration."""
