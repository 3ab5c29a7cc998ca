"""Names for what asyncpg hands over; it publishes no types that mypy could hold us to."""

from typing import Any, TypeAlias

Connection: TypeAlias = Any  # an asyncpg connection inside a transaction
Row: TypeAlias = Any  # one of its records: columns by name
