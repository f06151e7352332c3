"""EventLoopPolicy, for the Python versions that have event loop policies (up to 3.15).

Imported on first use only: naming a policy class is deprecated from Python 3.14 and impossible from 3.16.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from loopfast._run import new_event_loop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, DefaultEventLoopPolicy

__all__ = ["event_loop_policy_class", "policy_function"]


def policy_function(name: str) -> Any:
    """Return asyncio's function ``name`` that reads or sets the policy, or None where policies are gone.

    Python 3.14 and 3.15 keep each of them a second time under a leading underscore, for asyncio's own calls, and warn
    in the public one. The warning is for code that relies on policies for good; loopfast uses them only while they are
    there and has another way for later versions, so it takes the silent one.
    """
    return getattr(asyncio.events, f"_{name}", None) or getattr(asyncio.events, name, None)


def _default_policy() -> Any:
    """Return the running version's own default policy class, or None where policies are gone."""
    if sys.platform == "win32":
        from asyncio import windows_events as platform_events
    else:
        from asyncio import unix_events as platform_events
    for name in ("_DefaultEventLoopPolicy", "DefaultEventLoopPolicy"):  # 3.14 and 3.15; before
        if (cls := getattr(platform_events, name, None)) is not None:
            return cls
    return None


if not TYPE_CHECKING:
    DefaultEventLoopPolicy = _default_policy()

if DefaultEventLoopPolicy is not None:

    class EventLoopPolicy(DefaultEventLoopPolicy):
        """asyncio's default policy, with loopfast's event loops.

        ``asyncio.set_event_loop_policy(loopfast.EventLoopPolicy())`` is the older way to say ``loopfast.install()``.
        Which loop is the current one, and child watchers up to Python 3.13, behave as in the default policy.
        """

        __module__ = "loopfast"

        def new_event_loop(self) -> AbstractEventLoop:
            """Return a new loopfast event loop."""
            return new_event_loop()


def event_loop_policy_class() -> type[EventLoopPolicy]:
    """Return EventLoopPolicy.

    Raises:
        AttributeError: This Python version has no event loop policies.
    """
    if DefaultEventLoopPolicy is None:
        raise AttributeError(
            "loopfast.EventLoopPolicy does not exist on Python "
            f"{sys.version_info.major}.{sys.version_info.minor}, which has no event loop policies; use loopfast.run(), "
            "loopfast.install() or asyncio.Runner(loop_factory=loopfast.new_event_loop)"
        )
    return EventLoopPolicy
