"""`python -m lucid_events.contracts [directory]` brings the files below it up to date."""

import sys
from pathlib import Path

from lucid_events.contracts.landing import land

if __name__ == "__main__":
    land(Path(sys.argv[1] if len(sys.argv) > 1 else "schemas"))
