"""What the server can do, beside other programs on the same machine: `make bench`.

A server on one core, the load generator of native/ on another; compared is the CPU time of the server,
in rounds that alternate between the candidates. See native/load.c for how something is counted.
"""
