"""Measurements of loopfast beside other event loops: the instruction budget and the demonstration.

Not part of the installed package: run from a checkout, as ``python -m bench.budget`` and ``python -m bench.demo``.
"""
