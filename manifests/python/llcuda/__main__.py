"""``python -m llcuda`` is the command ``llcuda``."""

import sys

from ._internal.cli import main

sys.exit(main())
