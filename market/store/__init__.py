"""The market's tables and statements; its foreign keys point to settlement's. Read `tables.py` first."""
