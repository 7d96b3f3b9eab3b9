"""Evidence suites: what a watermark costs, what it survives, and how it compares with others on the same prompts."""
