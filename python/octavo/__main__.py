"""`python -m octavo`: the command line."""

import sys

from octavo.cli import main

sys.exit(main())
