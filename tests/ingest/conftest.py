"""Puts the modules beside this file where the tests find them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
