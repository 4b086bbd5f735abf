"""`python -m stableanimator_core`, or `python path/of/stableanimator_core`: the command line."""

import sys
from pathlib import Path

if not __package__:  # run by its folder's path, which portable Pythons need; the folder itself must not be searched
    sys.path[0] = str(Path(__file__).absolute().parent.parent)

from stableanimator_core.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
