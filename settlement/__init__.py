"""Who owes whom, and how anyone can check it.

Imports nothing of market or compute. Read `domain/ledger.py` first.
"""
