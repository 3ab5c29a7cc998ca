"""What every web edge shares: typed endpoints, caller's key, refusals, limits. Read `endpoint.py` first."""
