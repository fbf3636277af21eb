"""The entry point of the `deid` command, and of `python -m deidcli`.

It imports nothing itself, so that Ctrl-C ends the command without a traceback also while it is
still being loaded.
"""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from deidcli.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("deid: stopped\n")
        sys.stderr.flush()
        os._exit(130)


if __name__ == "__main__":
    main()
