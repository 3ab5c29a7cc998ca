"""A consumer's program: async heart in `client.py`, blocking facade in `blocking.py`."""
