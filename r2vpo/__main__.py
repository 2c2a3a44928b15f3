"""``python -m r2vpo`` is the ``r2vpo`` command."""

import sys

from r2vpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
