"""The pure rules of money and proof: no I/O, no clock, no randomness. Read `ledger.py` first."""
