"""The command `windflow`: one file per command group; `main` is the console script.

Every module here imports what it needs inside its command functions, so that `windflow --help`
loads neither the server nor the HTTP client.
"""


def main() -> None:
    """Run the command line of this process and exit with its status."""
    import sys

    from backend.app.cli.collector import spare_the_start

    spare_the_start()
    from backend.app.cli.app import run

    sys.exit(run(sys.argv[1:]))
