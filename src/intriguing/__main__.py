"""The command line as ``python -m intriguing``."""

from intriguing.cli import main

if __name__ == "__main__":
    main()
