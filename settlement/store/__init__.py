"""Tables, statements and the database itself; imports `settlement.domain` only. Read `tables.py` first."""
