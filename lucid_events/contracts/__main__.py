"""`python -m lucid_events.contracts [directory]` brings the files below it up to date."""

import argparse
from pathlib import Path

from lucid_events.contracts.landing import land

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lucid_events.contracts", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("schemas"))
    land(parser.parse_args().directory)
