"""Strangers' code on this machine: what it may touch, how it is started, watched, metered and ended.

Knows nothing of jobs or Ray. Read `policy.py` first, then `spawner.py` and `runner.py`.
"""
