"""Ray and Ray Serve on loopfast, without a change: asynchronous actors, and a deployment that answers over HTTP.

Ray knows one other loop, uvloop, by name and takes it where it is installed, so it gets loopfast under that name.
Collected where the package is installed: `make engines`.
"""

from __future__ import annotations

import textwrap

import pytest
from programs import free_port, python

pytestmark = [pytest.mark.interop("ray"), pytest.mark.timeout(300)]

JOB = """
    import asyncio, json, os, sys, urllib.request

    import ray
    from fastapi import FastAPI
    from ray import serve

    def kind():
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    @ray.remote
    class Counter:
        def __init__(self):
            self.most = self.now = 0

        async def work(self, number):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return kind(), number * number, os.getpid()

        async def concurrency(self):
            return self.most

    api = FastAPI()

    @serve.deployment(num_replicas=2)
    @serve.ingress(api)
    class Service:
        @api.get("/square/{number}")
        async def square(self, number: int):
            await asyncio.sleep(0)
            return {"loop": kind(), "pid": os.getpid(), "square": number * number}

    def main(port):
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        try:
            counter = Counter.options(max_concurrency=50).remote()
            results = ray.get([counter.work.remote(number) for number in range(200)], timeout=120)
            kinds, squares, _ = zip(*results)
            print("actor", sorted(set(kinds)), sum(squares), flush=True)
            print("concurrent", ray.get(counter.concurrency.remote(), timeout=60) > 1, flush=True)
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(Service.bind(), name="service", route_prefix="/")
            answers = []
            for number in range(100):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/square/{number}", timeout=60) as response:
                    answers.append(json.load(response))
            print("service", sorted({answer["loop"] for answer in answers}), flush=True)
            print("sum", sum(answer["square"] for answer in answers), flush=True)
            print("replicas", len({answer["pid"] for answer in answers}), flush=True)
            serve.shutdown()
        finally:
            ray.shutdown()
        print("closed", flush=True)

    if __name__ == "__main__":
        main(int(sys.argv[1]))
"""


def test_actors_and_a_deployment(tmp_path):
    program = tmp_path / "job.py"
    program.write_text(textwrap.dedent(JOB))
    command = ("-m", "loopfast", "run", "--as-uvloop", program, str(free_port()))
    with python(*command, cwd=tmp_path, RAY_USAGE_STATS_ENABLED="0") as job:
        job.expect(r"^actor \['loopfast'\] 2646700$", 150)
        job.expect("^concurrent True$", 60)
        job.expect(r"^service \['loopfast'\]$", 150)
        job.expect("^sum 328350$")
        job.expect("^replicas [12]$")
        job.expect("^closed$", 60)
        assert job.ended() == 0, job.output
