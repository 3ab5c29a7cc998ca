"""L1, the provider's daemon: key, leases, receipts and one outbound connection to the market.

Stands on `compute.domain.agent`, the executors, and `market.{wire,sdk}`; holds neither Ray nor a
database. Read `loop.py` first.
"""
