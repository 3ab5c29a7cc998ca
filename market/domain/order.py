"""An order's life: the standing demand of a job for slots."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class OrderState(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class OrderEvent(StrEnum):
    FILLED = "filled"  # the job needs no further slot, ever
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TRANSITIONS: Final[Mapping[tuple[OrderState, OrderEvent], OrderState]] = MappingProxyType(
    {
        (OrderState.OPEN, OrderEvent.FILLED): OrderState.CLOSED,
        (OrderState.OPEN, OrderEvent.CANCELLED): OrderState.CLOSED,
        (OrderState.OPEN, OrderEvent.EXPIRED): OrderState.CLOSED,
    }
)
