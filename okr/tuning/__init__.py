"""Which setting to choose: ``okr calibrate``."""
