"""The version of WindFlow, from the installed package; `0+source` when it is not installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("windflow")
except PackageNotFoundError:
    VERSION = "0+source"
