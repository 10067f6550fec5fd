"""Servers that stand beside ours in a measurement; each is started as `python -m benchmarks.servers.NAME`."""
