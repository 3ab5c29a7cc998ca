"""A command line that runs on the market in a copy of a folder, once per input."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from market.sdk import archive
from market.sdk.client import MarketClient
from market.sdk.function import Call, Code, MapJob, Terms, Work
from market.sdk.home import at_home
from market.sdk.results import CommandResult
from market.wire import programs
from settlement.domain.errors import Malformed


def input_bytes(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """An input as it travels: bytes as they are, text as UTF-8, everything else as JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise Malformed(f"an input is bytes, text or JSON: {error}") from None


class Command(Work[CommandResult]):
    """A command with its terms at one market. Inputs are bytes, text or JSON values.

    In its words `{input}` is the input's text, `{input_file}` the path of a file that holds it and
    `{index}` the task's number; without the first two the input is standard input. `collect` names
    files to bring back by pattern; `*` matches across folders too.
    """

    def __init__(
        self,
        client: MarketClient,
        arguments: Sequence[str],
        terms: Terms,
        *,
        directory: str | Path | None = None,
        collect: Sequence[str] = (),
    ) -> None:
        self.arguments, self.directory, self.collect = list(arguments), directory, list(collect)
        name = " ".join(self.arguments) or "command"
        super().__init__(client, Code("command", name, self._pack), terms)

    def _pack(self) -> bytes:
        code = programs.CommandCode(
            arguments=self.arguments, archive=archive.pack(self.directory), collect=self.collect
        )
        return programs.encode(code)

    @at_home
    async def remote(self, value: Any = b"") -> CommandResult:  # noqa: ANN401 - any JSON value
        """Run it for one input and wait for the result."""
        return await (await self.spawn(value)).get()

    @at_home
    async def spawn(self, value: Any = b"") -> Call[CommandResult]:  # noqa: ANN401 - any JSON value
        """Send one input; the market has it when this returns."""
        return await self.send(input_bytes(value))

    @at_home
    async def map(
        self, values: Iterable[Any], *, slots: int | None = None
    ) -> MapJob[CommandResult]:
        """Send many inputs as one sealed job."""
        return await self.send_all([input_bytes(value) for value in values], slots=slots)
