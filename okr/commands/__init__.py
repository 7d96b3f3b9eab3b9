"""The commands of ``okr``: one file a command, their options, and what is shown while they work."""
