"""A WASM module that runs on the market, the same way on every machine, once per input."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from market.sdk.client import MarketClient
from market.sdk.command import input_bytes
from market.sdk.function import Call, Code, MapJob, Terms, Work
from market.sdk.home import at_home
from market.sdk.results import WasmResult
from market.wire import programs
from settlement.domain.errors import Malformed

FUEL_DEFAULT: Final = 10**12
MEMORY_MIB_DEFAULT: Final = 256
MAGIC: Final = b"\0asm\1\0\0\0"


class Wasm(Work[WasmResult]):
    """A WASI preview 1 command with its terms at one market; inputs are bytes, text or JSON values.

    The input is its standard input, its standard output the result. `memory_mib` is what the module
    may grow to; the slot of the terms needs about 100 MiB beside it.
    """

    def __init__(
        self,
        client: MarketClient,
        module: bytes | str | Path,
        terms: Terms,
        *,
        arguments: Sequence[str] = (),
        fuel: int = FUEL_DEFAULT,
        memory_mib: int = MEMORY_MIB_DEFAULT,
    ) -> None:
        self.module, self.arguments = module, list(arguments)
        self.fuel, self.memory_mib = fuel, memory_mib
        name = "module.wasm" if isinstance(module, bytes) else Path(module).name
        super().__init__(client, Code("wasm", name, self._pack), terms)

    def _pack(self) -> bytes:
        module = self.module if isinstance(self.module, bytes) else Path(self.module).read_bytes()
        if not module.startswith(MAGIC):
            raise Malformed(f"{self.code.name} is no WASM module (a component is not one either)")
        code = programs.WasmCode(
            module=module, arguments=self.arguments, fuel_max=self.fuel, memory_mib=self.memory_mib
        )
        return programs.encode(code)

    @at_home
    async def remote(self, value: Any = b"") -> WasmResult:  # noqa: ANN401 - any JSON value
        """Run it for one input and wait for the result."""
        return await (await self.spawn(value)).get()

    @at_home
    async def spawn(self, value: Any = b"") -> Call[WasmResult]:  # noqa: ANN401 - any JSON value
        """Send one input; the market has it when this returns."""
        return await self.send(input_bytes(value))

    @at_home
    async def map(self, values: Iterable[Any], *, slots: int | None = None) -> MapJob[WasmResult]:
        """Send many inputs as one sealed job."""
        return await self.send_all([input_bytes(value) for value in values], slots=slots)
