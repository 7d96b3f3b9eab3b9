"""``python -m okr.run [PRESET] [options]`` is ``okr run [PRESET] [options]``."""

import sys

from okr.entry import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
