"""Clients that ask without a pause, each request counted: what a restart must not be noticed by."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import threading
from typing import Self

from programs import PATIENCE
from support import LOCALHOST


class Load:
    """Threads that ask `/loop` of a server again and again until the context ends.

    Every second thread has a connection per request, the others keep theirs. `lost` is what no answer came for. Where
    a connection that was kept is closed before anything of the answer has come, the request is sent again on a new one,
    as every HTTP client does with GET (RFC 9110, section 9.2.2); such a request is counted in `resent`, not lost.
    """

    def __init__(self, port: int, threads: int = 8) -> None:
        self.port = port
        self.answers: collections.Counter[int] = collections.Counter()  # by process
        self.lost: list[str] = []
        self.resent = 0
        self._lock = threading.Condition()
        self._over = False
        self._threads = [
            threading.Thread(target=self._ask_again_and_again, args=(bool(number % 2),)) for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, pids: set[int] | None = None) -> None:
        """Wait until *count* more answers came, of the processes *pids* where that is told."""

        def answered() -> int:
            return sum(number for pid, number in self.answers.items() if pids is None or pid in pids)

        with self._lock:
            goal = answered() + count
            assert self._lock.wait_for(lambda: answered() >= goal, PATIENCE), (self.answers, self.lost[:5])

    def _ask_again_and_again(self, keeps: bool) -> None:
        link = http.client.HTTPConnection(LOCALHOST, self.port, timeout=PATIENCE)
        with contextlib.closing(link):
            while not self._over:
                was_kept = link.sock is not None
                try:
                    pid = self._ask(link, keeps)
                except (OSError, http.client.HTTPException) as exc:
                    link.close()
                    if was_kept and isinstance(exc, (ConnectionError, http.client.RemoteDisconnected)):
                        self.resent += 1
                    else:
                        self.lost.append(repr(exc))
                    continue
                with self._lock:
                    self.answers[pid] += 1
                    self._lock.notify_all()

    def _ask(self, link: http.client.HTTPConnection, keeps: bool) -> int:
        link.request("GET", "/loop", headers={} if keeps else {"Connection": "close"})
        response = link.getresponse()
        content = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status} {content!r}")
        return json.loads(content)["pid"]
