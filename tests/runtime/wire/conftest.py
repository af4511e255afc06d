"""What the tests of the runtime share."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports by path (importlib mode), so the modules beside the tests have to be found some other way.
sys.path.insert(0, str(Path(__file__).parent))
