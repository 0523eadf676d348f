"""`python -m shipway.serving`."""

import sys

from shipway.serving.server import main

if __name__ == "__main__":
    sys.exit(main())
