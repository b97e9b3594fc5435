"""`python -m terrella.cli`."""

import sys

from .main import main

sys.exit(main())
