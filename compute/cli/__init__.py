"""The command group `gridpact provider`; the entry point names `provider.py`."""
