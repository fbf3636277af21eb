"""The entry point of the `deid` command, and of `python -m deidcli`.

It imports nothing itself, so that Ctrl-C ends the command without a traceback also while it is
still being loaded.
"""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _open_closed_streams()
    try:
        from deidcli.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("deid: stopped\n")
        sys.stderr.flush()
        os._exit(130)


def _open_closed_streams() -> None:
    """Where stdin, stdout or stderr was closed (`>&-`), let nothing else take its number: what a
    library prints would land in the next file that is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - to the end


if __name__ == "__main__":
    main()
