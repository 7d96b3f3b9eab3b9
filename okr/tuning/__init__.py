"""Measures which setting to choose (``okr calibrate``)."""
