import sys
from pathlib import Path

for folder in ("triggers", "platforms", "promote", "serving"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
