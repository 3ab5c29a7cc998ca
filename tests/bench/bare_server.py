"""The reference of signed writes: a bare handler that stores the body by one durable commit."""

import asyncio
import os
import sys
from typing import Final

import asyncpg
from aiohttp import web

CONNECTIONS: Final = 16


async def serve(port: int) -> None:
    """Until killed."""
    pool = await asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
    )
    await pool.execute("CREATE TABLE IF NOT EXISTS bare (id bigserial PRIMARY KEY, body bytea)")

    async def store(request: web.Request) -> web.Response:
        await pool.execute("INSERT INTO bare (body) VALUES ($1)", await request.read())
        return web.Response(body=b"{}", content_type="application/json")

    app = web.Application()
    app.router.add_post("/", store)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
