"""asyncpg and psycopg against a real PostgreSQL: one is a protocol on transports, the other waits for a descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import io

import pytest
from programs import package
from support import LOCALHOST, pattern, until

asyncpg = package("asyncpg")
psycopg = package("psycopg")

pytestmark = pytest.mark.interop("asyncpg", "psycopg")

BODY = pattern(2_000_000)


@contextlib.asynccontextmanager
async def connected(postgresql, **options):
    link = await asyncpg.connect(**{**postgresql.options(ssl=False), **options})
    try:
        yield link
    finally:
        await link.close(timeout=10)


@contextlib.asynccontextmanager
async def psycopg_connected(postgresql, **options):
    words = {"host": LOCALHOST, "port": postgresql.port, "user": postgresql.user, "dbname": "postgres", **options}
    async with await psycopg.AsyncConnection.connect(**words, autocommit=True) as link:
        yield link


# -------------------------------------------------------------------------------------------------------------- asyncpg


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
async def test_asyncpg_every_way_in(loop, postgresql, certificate, way):
    options = {"tcp": {}, "tls": {"ssl": certificate.client()}, "unix": {"host": str(postgresql.folder)}}[way]
    async with connected(postgresql, **options) as link:
        encrypted = await link.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert encrypted is (way == "tls")
        assert await link.fetchval("select $1::bytea", BODY) == BODY
        rows = await link.fetch("select n, repeat('x', n % 100) as text from generate_series(1, 20000) n")
        assert [(row["n"], len(row["text"])) for row in rows] == [(n, n % 100) for n in range(1, 20_001)]


async def test_asyncpg_transactions_and_cursors(loop, postgresql):
    async with connected(postgresql) as link:
        await link.execute("create temp table t (n int primary key)")
        async with link.transaction():
            await link.executemany("insert into t values ($1)", [(n,) for n in range(5000)])
        with pytest.raises(asyncpg.UniqueViolationError):
            async with link.transaction():
                await link.execute("insert into t values (-1)")
                await link.execute("insert into t values (1)")
        async with link.transaction():
            seen = [row["n"] async for row in link.cursor("select n from t order by n", prefetch=100)]
        assert seen == list(range(5000))


async def test_asyncpg_pool(loop, postgresql):
    """More users than connections, some of them cancelled in the middle of a query: the pool stays whole."""
    async with asyncpg.create_pool(**postgresql.options(ssl=False), min_size=5, max_size=5) as pool:

        async def one(number):
            async with pool.acquire() as link:
                return await link.fetchval("select $1::int * 2", number)

        async def slow():
            async with pool.acquire() as link:
                await link.execute("select pg_sleep(1000)")

        assert await asyncio.gather(*map(one, range(300))) == [number * 2 for number in range(300)]
        async with connected(postgresql) as watcher:
            tasks = [asyncio.create_task(slow()) for _ in range(3)]
            running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(1000)' and state = 'active'"
            while await watcher.fetchval(running) < 3:
                pass
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.CancelledError] * 3
            while await watcher.fetchval(running):
                pass
        assert await asyncio.gather(*map(one, range(50))) == [number * 2 for number in range(50)]


async def test_asyncpg_timeout_cancels_the_query(loop, postgresql):
    async with connected(postgresql) as link:
        with pytest.raises(asyncio.TimeoutError):
            await link.execute("select pg_sleep(1000)", timeout=0.1)
        assert await link.fetchval("select 1") == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.execute("select pg_sleep(1000)")
        assert await link.fetchval("select 2") == 2


async def test_asyncpg_listen_and_notify(loop, postgresql):
    got = []
    async with connected(postgresql) as listener, connected(postgresql) as sender:
        await listener.add_listener("news", lambda *arguments: got.append(arguments[3]))
        for number in range(100):
            await sender.execute("select pg_notify('news', $1)", str(number))
        await until(lambda: len(got) == 100)
        assert got == [str(number) for number in range(100)]
        await listener.reset()


async def test_asyncpg_copy(loop, postgresql):
    async with connected(postgresql) as link:
        await link.execute("create temp table t (n int, text text)")
        text = "".join(f"{number}\t{'y' * (number % 50)}\n" for number in range(50_000)).encode()

        async def source():
            for start in range(0, len(text), 9999):
                yield text[start : start + 9999]

        assert await link.copy_to_table("t", source=source()) == "COPY 50000"
        sink = io.BytesIO()
        assert await link.copy_from_query("select * from t order by n", output=sink) == "COPY 50000"
        assert sink.getvalue() == text


async def test_asyncpg_a_connection_that_the_server_ends(loop, postgresql):
    async with connected(postgresql) as killer:
        link = await asyncpg.connect(**postgresql.options(ssl=False))
        ended = loop.create_future()
        link.add_termination_listener(lambda _: ended.set_result(None))
        pid = link.get_server_pid()
        running = asyncio.create_task(link.execute("select pg_sleep(1000)"))
        while await killer.fetchval("select state from pg_stat_activity where pid = $1", pid) != "active":
            pass
        await killer.fetchval("select pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await running
        await ended
        assert link.is_closed()


# -------------------------------------------------------------------------------------------------------------- psycopg


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
async def test_psycopg_every_way_in(loop, postgresql, certificate, way):
    options = {
        "tcp": {"sslmode": "disable"},
        "tls": {"sslmode": "verify-full", "sslrootcert": str(certificate.cert), "host": "localhost"},
        "unix": {"host": str(postgresql.folder)},
    }[way]
    async with psycopg_connected(postgresql, **options) as link:
        cursor = await link.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert await cursor.fetchone() == (way == "tls",)
        cursor = await link.execute("select %s::bytea", (BODY,), binary=True)
        assert await cursor.fetchone() == (BODY,)


async def test_psycopg_many_connections_at_once(loop, postgresql):
    async def one(number):
        async with psycopg_connected(postgresql) as link, link.cursor() as cursor:
            await cursor.executemany("select %s::int", [(number,)] * 20, returning=True)
            await cursor.execute("select n from generate_series(1, %s) n", (number * 100,))
            return len(await cursor.fetchall())

    assert await asyncio.gather(*map(one, range(20))) == [number * 100 for number in range(20)]


async def test_psycopg_pipeline_copy_and_stream(loop, postgresql):
    async with psycopg_connected(postgresql) as link, link.cursor() as cursor:
        await cursor.execute("create temp table t (n int, text text)")
        async with link.pipeline():
            for number in range(500):
                await link.execute("insert into t values (%s, 'pipeline')", (number,))
        async with cursor.copy("copy t from stdin") as copy:
            for number in range(500, 30_000):
                await copy.write_row((number, "copy"))
        seen = [number async for (number,) in cursor.stream("select n from t order by n")]
        assert seen == list(range(30_000))
        received = b""
        async with cursor.copy("copy (select n from t order by n) to stdout") as copy:
            async for piece in copy:
                received += piece
        assert received == "".join(f"{number}\n" for number in range(30_000)).encode()


async def test_psycopg_notifications_and_cancellation(loop, postgresql):
    async with psycopg_connected(postgresql) as link, psycopg_connected(postgresql) as sender:
        await link.execute("listen news")
        for number in range(20):
            await sender.execute("select pg_notify('news', %s)", (str(number),))
        got = [notification.payload async for notification in link.notifies(stop_after=20, timeout=20)]
        assert got == [str(number) for number in range(20)]

        task = asyncio.create_task(link.execute("select pg_sleep(1000)"))
        pid = link.info.backend_pid
        state = "select state, query from pg_stat_activity where pid = %s"
        while (await (await sender.execute(state, (pid,))).fetchone()) != ("active", "select pg_sleep(1000)"):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await (await link.execute("select 1")).fetchone() == (1,)


async def test_psycopg_a_connection_that_the_server_ends(loop, postgresql):
    async with psycopg_connected(postgresql) as killer, psycopg_connected(postgresql) as link:
        task = asyncio.create_task(link.execute("select pg_sleep(1000)"))
        pid = link.info.backend_pid
        state = "select state, query from pg_stat_activity where pid = %s"
        while (await (await killer.execute(state, (pid,))).fetchone()) != ("active", "select pg_sleep(1000)"):
            pass
        await killer.execute("select pg_terminate_backend(%s)", (pid,))
        with pytest.raises(psycopg.OperationalError):
            await task
        assert link.closed
