"""`python -m deidcli.cli`, the same as `deid`."""

from deidcli.cli import main

if __name__ == "__main__":
    main()
