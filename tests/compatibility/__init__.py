"""The compatibility page of the documentation, generated from the outcomes of the tests. See ``python -m
tests.compatibility --help``."""
