"""The pure rules of a provider's machine: no I/O, no clock, no randomness. Read `placement.py` first."""
