"""Use cases of the market: lock, decide, write; money goes through settlement's engine."""
