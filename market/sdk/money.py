"""What a party does with its money beside trading: pay many, withdraw, accept receipts, sign vouchers."""

from collections.abc import Sequence
from uuid import uuid4

from market.sdk.explorer import Runner, waiting
from market.sdk.reader import MarketReader, now_ms, read
from market.sdk.transport import new_idempotency_key
from market.wire import codec, money, trade
from market.wire.jobs import PAGE_MAX
from settlement.domain.errors import LimitExceeded, Unsigned
from settlement.domain.payments import PAYEES_MAX, Payee, Payout, Withdraw, Withdrawn
from settlement.domain.settled import Acceptance, Voucher
from settlement.domain.statement import Statement, sign


class MoneyClient(MarketReader):
    """The part of a client that signs; `MarketClient` adds the trade."""

    async def _write(self, method: str, path: str, body: object) -> bytes:
        data = b"" if body is None else codec.encode(body)
        return await self.transport.request(
            method, path, data, idempotency_key=new_idempotency_key()
        )

    def _sign(self, statement: Statement) -> bytes:
        if self.key is None:
            raise Unsigned("this needs a key, and none was given")
        return sign(statement, self.key).envelope

    async def pay_many(self, payees: Sequence[tuple[str, int]], *, memo: str = "") -> trade.Moved:
        """Pay all of these (address, micro-credits), or none of them."""
        if len(payees) > PAYEES_MAX:
            raise LimitExceeded(f"a payout has at most {PAYEES_MAX} payees, not {len(payees)}")
        payout = Payout(
            v=1,
            kind="payout",
            market=(await self.market()).market,
            payer=self.address,
            payees=[Payee(to, str(amount), str(uuid4())) for to, amount in payees],
            memo=memo,
            at_ms=now_ms(),
        )
        body = money.PayMany(self._sign(payout))
        return read(await self._write("POST", "/v1/payouts", body), trade.Moved)

    # ── withdrawals ─────────────────────────────────────────────────────────────────────────

    async def withdraw(self, amount_microcredits: int, destination: str) -> money.WithdrawalView:
        """Ask for available tokens to leave the market; they are reserved until it is decided."""
        wish = Withdraw(
            v=1,
            kind="withdraw",
            market=(await self.market()).market,
            party=self.address,
            amount=str(amount_microcredits),
            transfer=str(uuid4()),
            destination=destination,
            at_ms=now_ms(),
        )
        body = money.WithdrawPost(self._sign(wish))
        return read(await self._write("POST", "/v1/withdrawals", body), money.WithdrawalView)

    async def withdrawal(self, transfer: str) -> money.WithdrawalView:
        """What became of one."""
        data = await self.transport.request("GET", f"/v1/withdrawals/{transfer}")
        return read(data, money.WithdrawalView)

    async def withdrawals(
        self, *, everybody: bool = False, waiting: bool = False
    ) -> list[money.WithdrawalView]:
        """One's own, oldest first; for the operator's key also everybody's."""
        query: dict[str, str | int] = {
            "whose": "all" if everybody else "mine",
            "state": "waiting" if waiting else "any",
            "limit": PAGE_MAX,
        }
        found: list[money.WithdrawalView] = []
        while True:
            data = await self.transport.request("GET", "/v1/withdrawals", query=query)
            page = read(data, money.Withdrawals)
            found += page.withdrawals
            if not page.next:
                return found
            query["after"] = page.next

    async def decide_withdrawal(
        self, transfer: str, *, paid: bool, memo: str = ""
    ) -> money.WithdrawalView:
        """The operator's word: the tokens were paid out, or the party keeps them."""
        word = Withdrawn(
            v=1,
            kind="withdrawn",
            market=(await self.market()).market,
            operator=self.address,
            party=(await self.withdrawal(transfer)).party,
            withdrawal=transfer,
            transfer=str(uuid4()),
            outcome="paid" if paid else "refused",
            memo=memo,
            at_ms=now_ms(),
        )
        body = money.DecisionPost(self._sign(word))
        path = f"/v1/withdrawals/{transfer}/decision"
        return read(await self._write("POST", path, body), money.WithdrawalView)

    # ── usage ───────────────────────────────────────────────────────────────────────────────

    async def receipt_state(self, receipt: str) -> money.Accepted:
        """How one of one's own receipts stands."""
        data = await self.transport.request("GET", f"/v1/receipts/{receipt}/acceptance")
        return read(data, money.Accepted)

    async def accept_receipt(self, receipt: str) -> money.Accepted:
        """Take a receipt as it is: it is settled without waiting for a check."""
        said = Acceptance(
            v=1,
            kind="acceptance",
            market=(await self.market()).market,
            consumer=self.address,
            job=(await self.receipt_state(receipt)).job,
            receipt=receipt,
            at_ms=now_ms(),
        )
        body = money.AcceptancePost(self._sign(said))
        data = await self._write("POST", f"/v1/receipts/{receipt}/acceptance", body)
        return read(data, money.Accepted)

    async def leases(self, job: str) -> list[money.LeaseView]:
        """A job's leases, with the time that is paid of each."""
        data = await self.transport.request("GET", f"/v1/jobs/{job}/leases")
        return read(data, money.Leases).leases

    async def lease(self, lease: str) -> money.LeaseView:
        """One lease, for its consumer or its provider."""
        data = await self.transport.request("GET", f"/v1/leases/{lease}")
        return read(data, money.LeaseView)

    def sign_voucher(self, lease: money.LeaseView, wall_ms: int, *, market: str) -> bytes:
        """The consumer's word that it had so much of a lease by now, in all; nothing is sent."""
        return self._sign(
            Voucher(
                v=1,
                kind="voucher",
                market=market,
                consumer=lease.consumer,
                provider=lease.provider,
                job=lease.job,
                lease=lease.statement,
                wall_ms=wall_ms,
                at_ms=now_ms(),
            )
        )

    async def hand_in_voucher(self, lease: str, voucher: bytes) -> money.LeaseView:
        """Have a voucher paid; whoever of the two parties holds it may do this."""
        body = money.VoucherPost(voucher)
        data = await self._write("POST", f"/v1/leases/{lease}/vouchers", body)
        return read(data, money.LeaseView)

    async def vouch(self, lease: money.LeaseView, wall_ms: int) -> money.LeaseView:
        """Sign a voucher and have it paid."""
        market = (await self.market()).market
        voucher = self.sign_voucher(lease, wall_ms, market=market)
        return await self.hand_in_voucher(lease.statement, voucher)


class BlockingMoney:
    """The same calls, each of which waits for its answer."""

    def __init__(self, aio: MoneyClient, runner: Runner) -> None:
        self.aio = aio
        self.pay_many = waiting(aio.pay_many, runner)
        self.withdraw = waiting(aio.withdraw, runner)
        self.withdrawal = waiting(aio.withdrawal, runner)
        self.withdrawals = waiting(aio.withdrawals, runner)
        self.decide_withdrawal = waiting(aio.decide_withdrawal, runner)
        self.receipt_state = waiting(aio.receipt_state, runner)
        self.accept_receipt = waiting(aio.accept_receipt, runner)
        self.leases = waiting(aio.leases, runner)
        self.lease = waiting(aio.lease, runner)
        self.vouch = waiting(aio.vouch, runner)
        self.hand_in_voucher = waiting(aio.hand_in_voucher, runner)
