"""Whoever believes nothing: follows a log, keeps a verified copy, replays it, cosigns or refuses.

Imports settlement.domain, aiohttp and the standard library; no database. Read `source.py` (bytes),
`tree.py` (what a signed head vouches for), `copying.py` (the verified copy) and then `follower.py`.
"""
