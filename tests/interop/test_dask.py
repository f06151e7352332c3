"""Dask distributed on loopfast, without a change: a cluster of processes that computes, loses a worker, and ends.

Collected where the package is installed: `make engines`.
"""

from __future__ import annotations

import textwrap

import pytest
from programs import python

pytestmark = [pytest.mark.interop("distributed"), pytest.mark.timeout(180)]

# Scheduler in the main process, workers in processes of their own, each below a nanny.
JOB = """
    import asyncio, hashlib, os, time

    from distributed import Client, LocalCluster

    async def loop_of_worker():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0], os.getpid()

    async def loop_of_scheduler(dask_scheduler):
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    def digest(number):
        seen = str(number).encode()
        for _ in range(5000):
            seen = hashlib.sha256(seen).digest()
        return seen.hex()

    def slowly(number):
        time.sleep(0.05)
        return number

    def exchange(data):
        return len(data), data[:1]

    def main():
        with (
            LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            print("workers", sorted(set(client.run(loop_of_worker).values())), flush=True)
            print("scheduler", client.run_on_scheduler(loop_of_scheduler), flush=True)
            numbers = range(200)
            joined = client.submit(lambda pieces: "".join(pieces), client.map(digest, numbers))
            print("digests", joined.result(timeout=60) == "".join(map(digest, numbers)), flush=True)
            # Something large from one worker to the other, and back to us.
            first, second = client.scheduler_info(n_workers=-1)["workers"]
            large = client.submit(lambda: b"x" * 30_000_000, workers=[first])
            print("moved", client.submit(exchange, large, workers=[second]).result(timeout=60), flush=True)
            print("fetched", len(large.result(timeout=60)), flush=True)
            # A worker that dies is replaced, and its tasks are done again.
            slow = client.map(slowly, range(60), pure=False)
            victim = client.run(os.getpid, workers=[first])[first]
            os.kill(victim, 9)
            print("survived", sum(client.gather(slow)), flush=True)
            client.wait_for_workers(2, timeout=60)
            print("again", sorted({kind for kind, _ in client.run(loop_of_worker).values()}), flush=True)
        print("closed", flush=True)

    if __name__ == "__main__":
        main()
"""


def test_a_local_cluster_of_processes(tmp_path):
    program = tmp_path / "job.py"
    program.write_text(textwrap.dedent(JOB))
    with python("-m", "loopfast", "run", program, cwd=tmp_path) as job:
        kinds = job.expect("^workers (.*)", 90)[1]
        assert kinds.count("'loopfast'") == 2, job.output
        job.expect("^scheduler loopfast$")
        job.expect("^digests True$", 60)
        job.expect(r"^moved \(30000000, b'x'\)$", 60)
        job.expect("^fetched 30000000$")
        job.expect("^survived 1770$", 60)
        job.expect(r"^again \['loopfast'\]$", 60)
        job.expect("^closed$", 60)
        assert job.ended() == 0, job.output
