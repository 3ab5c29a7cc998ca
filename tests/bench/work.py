"""The work that is measured: as little as a function can do, so that all else shows."""


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number
