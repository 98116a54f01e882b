"""The program, as `swiftprune` and `python -m swiftprune`."""

import sys

from . import _swiftprune


def main() -> int:
    return _swiftprune.main(["swiftprune", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
