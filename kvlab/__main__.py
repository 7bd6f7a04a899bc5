"""``python -m kvlab``."""

from kvlab.command.cli import main

if __name__ == "__main__":
    main()
