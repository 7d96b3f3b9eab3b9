"""Builds pages, tables and plots for runs, suites, calibrations, studies and benchmarks."""
