"""Names of what lies in the output folder of a run."""

TASKS, RESULTS, REPORT, KEY, TRACES = "tasks", "results.json", "report.html", "key.json", "traces"
