"""`python -m gemini_streams`."""

from __future__ import annotations

import sys

from gemini_streams.cli import main

if __name__ == "__main__":
    sys.exit(main())
