"""`python -m probinfer …` is the command `probinfer …`. Imports cli only."""

import sys

from probinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
