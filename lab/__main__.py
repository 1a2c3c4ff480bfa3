"""`python -m lab`: what `./rack` runs."""

import sys

from lab.cli import main

sys.exit(main())
