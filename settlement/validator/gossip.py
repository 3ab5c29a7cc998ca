"""What validators tell each other and the market: heads, lines, evidence. A liar can't please all."""

from typing import Final
from urllib.parse import quote

import aiohttp
import msgspec

from settlement.domain.checkpoint import NOTE_BYTES_MAX
from settlement.domain.conflict import CONFLICT_BYTES_MAX
from settlement.domain.errors import BadCheckpoint, BadProof, Malformed, Unreachable
from settlement.validator import evidence
from settlement.validator.source import http_address, read_within
from settlement.validator.tree import open_head
from settlement.validator.watch import Watch

LIST_BYTES_MAX: Final = 1024 * 1024
REASON_CHARS_MAX: Final = 200
COSIGNATURES: Final = "/v1/log/cosignatures"
OK: Final = 200
NOT_FOUND: Final = 404


class Gossip:
    """`notes` on peers says what each of them answered last."""

    def __init__(self, session: aiohttp.ClientSession, peers: list[str]) -> None:
        self._session = session
        self._peers = [http_address(peer) for peer in peers]
        self.notes: dict[str, str] = {}

    async def listen(self, watch: Watch) -> None:
        """What the peers were shown of a log, and what they found."""
        for peer in self._peers:
            try:
                note = await self._get(
                    f"{peer}/checkpoint/{quote(watch.origin)}", bytes_max=NOTE_BYTES_MAX
                )
                if note is not None:
                    watch.hear(peer, note)
                await self._listen_for_evidence(peer, watch)
                self.notes[peer] = "ok"
            except (Unreachable, Malformed, BadCheckpoint, BadProof) as error:
                self.notes[peer] = error.detail

    async def _listen_for_evidence(self, peer: str, watch: Watch) -> None:
        data = await self._get(f"{peer}/evidence", bytes_max=LIST_BYTES_MAX)
        try:
            items = msgspec.json.decode(data or b'{"evidence":[]}', type=evidence.Items)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"{peer}/evidence: {error}") from None
        known = {item.name for item in watch.shelf.items}
        for item in items.evidence[: evidence.FILES_MAX]:
            if (item.origin, item.kind) != (watch.origin, "split") or item.name in known:
                continue
            if evidence.NAME.match(item.name):
                split = await self._get(
                    f"{peer}/evidence/{item.name}", bytes_max=CONFLICT_BYTES_MAX
                )
                if split is not None:
                    watch.hear_evidence(peer, split)

    async def ask(self, watch: Watch, market: str) -> None:
        """Which head other validators cosigned last: only lines under one head make it final."""
        try:
            note = await self._get(market + COSIGNATURES, bytes_max=NOTE_BYTES_MAX)
            watch.candidate = open_head(note, watch.log_key) if note is not None else None
        except (Unreachable, Malformed, BadCheckpoint):
            watch.candidate = None  # a market that knows of none: everybody takes the newest

    async def tell(self, watch: Watch, market: str) -> None:
        """Bring the market our line under the last head; once it took it, not again."""
        note = watch.cosigner.note
        taken = f"{watch.cosigner.last.size}: taken"
        if not note or watch.published == taken:
            return
        try:
            async with self._session.post(
                market + COSIGNATURES,
                data=note.encode(),
                headers={"Content-Type": "text/plain"},
                allow_redirects=False,
            ) as response:
                text = (await read_within(response, NOTE_BYTES_MAX)).decode(errors="replace")
                if response.status == OK:
                    watch.published = taken
                else:
                    watch.published = f"HTTP {response.status}: {text[:REASON_CHARS_MAX]}"
        except (aiohttp.ClientError, TimeoutError, OSError, Malformed) as error:
            watch.published = f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]

    async def _get(self, url: str, *, bytes_max: int) -> bytes | None:
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                data = await read_within(response, bytes_max)
                if response.status == OK:
                    return data
                if response.status == NOT_FOUND:
                    return None
                raise Unreachable(f"{url}: HTTP {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"{url}: {type(error).__name__}: {error}") from None
