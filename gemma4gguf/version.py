"""The version, in its one place: packages, files and commands read it here."""

__version__ = "0.1.0"
