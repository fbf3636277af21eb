"""`python -m deidcli.cli`, the same as `deid`."""

from deidcli.__main__ import main

if __name__ == "__main__":
    main()
