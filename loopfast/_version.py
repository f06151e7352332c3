"""The one place that states loopfast's version; the package metadata is read from here."""

__version__ = "0.1.0"
