"""The steps of ``bench/on_card.py``. What is imported here imports nothing heavy: the command itself does not."""
