"""The provider side: sandboxes, executors, the daemon; a client of the market's wire. Read `executors/executor.py` first."""
