"""Seeds from words: each piece of work has its own, so that any of them can be done again alone."""

import hashlib


def seed_of(words: str) -> int:
    """A seed from 0 to 2^63 - 1, the same for the same ``words`` everywhere."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
