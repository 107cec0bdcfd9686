"""``python -m valuegrad``: the command line."""

from valuegrad.cli import main

if __name__ == "__main__":
    main()
