"""Money as whole micro-credits: checked parsing, formatting, and nothing that is a float.

One credit is 1,000,000 micro-credits. Amounts lie in 0 … 2^128 − 1 (DESIGN.md 6).
"""

from decimal import Decimal, InvalidOperation, localcontext
from typing import Final

from settlement.domain.errors import BadAmount

MICROCREDITS_PER_CREDIT: Final = 1_000_000
AMOUNT_MAX: Final = 2**128 - 1
DECIMALS_MAX: Final = 6
DIGITS_MAX: Final = 39  # of 2^128 − 1 in decimal
BASIS_POINTS: Final = 10_000


def checked(amount_microcredits: int) -> int:
    """The amount itself if it is a whole number in range; `BadAmount` otherwise."""
    if type(amount_microcredits) is not int:  # nor a bool
        raise BadAmount(f"{amount_microcredits!r} is not an integer")
    if 0 <= amount_microcredits <= AMOUNT_MAX:
        return amount_microcredits
    raise BadAmount(f"{amount_microcredits} is not within 0 … 2^128 - 1")


def parse_credits(value: str | Decimal | float) -> int:
    """Credits, as people write them, to micro-credits; a float is read by its repr.

    At most six decimals; more is refused, never rounded.
    """
    if isinstance(value, bool):
        raise BadAmount(f"{value!r} is not an amount")
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise BadAmount(f"{text!r} is not an amount of credits") from None
    if not number.is_finite():
        raise BadAmount(f"{text!r} is not an amount of credits")
    with localcontext() as context:
        context.prec = 60  # the default of 28 digits would round silently
        scaled = number * MICROCREDITS_PER_CREDIT
        whole = scaled.to_integral_value()
    if scaled != whole:
        raise BadAmount(f"{text} has more than {DECIMALS_MAX} decimals")
    return checked(int(whole))


def format_credits(amount_microcredits: int) -> str:
    """Micro-credits as credits with all six decimals, for example 1.250000."""
    sign = "-" if amount_microcredits < 0 else ""
    whole, part = divmod(abs(amount_microcredits), MICROCREDITS_PER_CREDIT)
    return f"{sign}{whole}.{part:06d}"


def to_text(amount_microcredits: int) -> str:
    """The decimal string that JSON carries."""
    return str(checked(amount_microcredits))


def from_text(text: str) -> int:
    """Strict inverse of `to_text`: no sign, no leading zero, no blanks."""
    if (
        text.isdigit()
        and text.isascii()
        and len(text) <= DIGITS_MAX
        and (text[0] != "0" or text == "0")
    ):
        return checked(int(text))
    raise BadAmount(f"{text[:50]!r} is not a decimal amount")


def share(amount_microcredits: int, *, basis_points: int) -> int:
    """A part in 10,000, rounded down."""
    return checked(amount_microcredits) * basis_points // BASIS_POINTS
