"""redis-py's asyncio client, built on streams, with a real Redis: pipelines, subscriptions, blocking calls, ends."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from programs import free_port, package
from support import LOCALHOST, pattern

redis = package("redis.asyncio")
redis_exceptions = package("redis.exceptions")

pytestmark = pytest.mark.interop("redis")

BODY = pattern(3_000_000)


@contextlib.asynccontextmanager
async def connected(redis_server, **options):
    client = redis.Redis(host=LOCALHOST, port=redis_server.port, **options)
    await client.flushall()
    try:
        yield client
    finally:
        await client.aclose()


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_values_of_every_size(loop, redis_server, way):
    client = redis.Redis(
        **{"unix_socket_path": redis_server.unix} if way == "unix" else {"host": LOCALHOST, "port": redis_server.port}
    )
    async with client:
        for size in (0, 1, 65_535, 65_536, 65_537, len(BODY)):
            await client.set("value", BODY[:size])
            assert await client.get("value") == BODY[:size]


async def test_pipeline(loop, redis_server):
    async with connected(redis_server) as client:
        async with client.pipeline(transaction=True) as pipeline:
            for number in range(10_000):
                pipeline.rpush("list", number)
            assert await pipeline.execute() == list(range(1, 10_001))
        assert await client.lrange("list", 0, -1) == [b"%d" % number for number in range(10_000)]


async def test_many_users_of_a_pool(loop, redis_server):
    pool = redis.BlockingConnectionPool(host=LOCALHOST, port=redis_server.port, max_connections=10, timeout=20)
    async with redis.Redis(connection_pool=pool) as client:
        await client.flushall()

        async def one(number):
            await client.set(f"key{number}", number)
            await client.incr("counter")
            return int(await client.get(f"key{number}"))

        assert await asyncio.gather(*map(one, range(500))) == list(range(500))
        assert await client.get("counter") == b"500"
    await pool.aclose()


async def test_subscriptions(loop, redis_server):
    async with connected(redis_server) as client, client.pubsub() as subscriber:
        await subscriber.subscribe("news")
        await subscriber.psubscribe("wea*")
        for _ in range(2):
            assert "subscribe" in (await subscriber.get_message(timeout=20))["type"]
        for number in range(200):
            await client.publish("news" if number % 2 else "weather", number)
        got = []
        while len(got) < 200:
            message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=20)
            got.append(int(message["data"]))
        assert got == list(range(200))
        assert await subscriber.get_message(timeout=0.02) is None


async def test_blocking_calls_that_are_cancelled(loop, redis_server):
    async with connected(redis_server) as client:
        waiting = asyncio.create_task(client.blpop("queue", timeout=30))
        while not await blocked(client):
            pass
        await client.rpush("queue", "element")
        assert await waiting == (b"queue", b"element")

        cancelled = asyncio.create_task(client.blpop("queue", timeout=30))
        while not await blocked(client):
            pass
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        while await blocked(client):
            pass
        await client.rpush("queue", "kept")
        assert await client.lpop("queue") == b"kept"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.blpop("queue", timeout=30)
        assert await client.ping()


def retries(count):
    return package("redis.asyncio.retry").Retry(package("redis.backoff").NoBackoff(), count)


async def blocked(client):
    return (await client.info("clients"))["blocked_clients"]


async def test_a_connection_that_the_server_ends(loop, redis_server):
    """Without retries the error is raised; with them the next call has a new connection."""
    async with (
        connected(redis_server, retry=retries(0), single_connection_client=True) as once,
        connected(redis_server, retry=retries(1), single_connection_client=True) as again,
        connected(redis_server) as killer,
    ):
        for client in (once, again):
            assert await killer.client_kill_filter(_id=await client.client_id())
        with pytest.raises(redis_exceptions.ConnectionError):
            while True:
                await once.ping()
        assert await again.ping()
        waiting = asyncio.create_task(once.blpop("queue", timeout=30))
        while not await blocked(killer):
            pass
        assert await killer.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis_exceptions.ConnectionError):
            await waiting


async def test_nobody_listens(loop):
    async with redis.Redis(host=LOCALHOST, port=free_port(), retry=retries(0)) as client:
        with pytest.raises(redis_exceptions.ConnectionError):
            await client.ping()
