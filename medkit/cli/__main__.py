"""Run the ``medkit`` command by ``python -m medkit.cli``, as torchrun does."""

import sys

from medkit.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
