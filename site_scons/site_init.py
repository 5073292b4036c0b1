# SPDX-License-Identifier: Apache-2.0
"""Make the library importable for SConstruct files that use this checkout in place."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
