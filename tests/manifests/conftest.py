import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# What the model server's own tests send it, for what it then tells Prometheus.
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serving"))
