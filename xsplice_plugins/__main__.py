# SPDX-License-Identifier: Apache-2.0
"""Let ``python -m xsplice_plugins`` be the command line."""

import sys

from xsplice_plugins.cli import main

sys.exit(main())
