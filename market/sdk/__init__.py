"""What a consumer's program and a provider's daemon use to speak with a market.

Imports `market.wire`, `market.domain` and `settlement.domain` only: no database, no Ray. Read
`client.py` (the async heart) first, then `blocking.py` (the thin facade that most programs use).
"""
