"""Results as plain data: a closed set of types in msgpack, so that nobody unpickles the other's bytes."""

from market.wire.plain_read import decode
from market.wire.plain_write import encode, encode_exception

__all__ = ["decode", "encode", "encode_exception"]
