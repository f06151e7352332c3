"""CPython's own test_asyncio, run with loopfast in the place of the loops that it makes. See ``python -m tests.parity
--help``."""
