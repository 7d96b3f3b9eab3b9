"""Tables, pictures and pages: for runs, suites, calibrations, studies and benchmarks."""
