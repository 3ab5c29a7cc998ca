"""What a job's code is; alone, so that a provider's Ray can load it without the rest of the market."""

from typing import Literal

Kind = Literal["function", "command", "wasm"]
