"""What runs a model under a key, recorded, or with a trace's routing."""
