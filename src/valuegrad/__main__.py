"""``python -m valuegrad``: the command line."""

from valuegrad.cli.app import main

if __name__ == "__main__":
    main()
