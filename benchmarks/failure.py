"""The one exception of the benchmarks: why something cannot be measured, in a sentence for people."""


class BenchmarkError(Exception):
    """A program cannot be built or started, ended, or lost a connection."""
