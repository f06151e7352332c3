"""Measurements of loopfast beside other event loops: the benchmark suite, the instruction budget, the demonstration.

The wheel carries this folder, without the demonstration, as ``loopfast.bench``; a checkout runs it as ``bench``.
"""
