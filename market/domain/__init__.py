"""The pure rules of the market: state tables, intervals, matching. Read `job.py` first."""
