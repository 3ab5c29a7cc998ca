"""Use cases of money and proof over the store. Read `engine.py` first: all money moves through it."""
