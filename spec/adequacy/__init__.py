"""Is the suite any good? Measured three ways: a zoo of seeded bugs, mutants of okr.routing, and false alarms."""
