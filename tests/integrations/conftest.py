"""The ROS package's folder comes first on the path; it imports `dmd_live`, which is installed."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "integrations" / "ros2" / "dmd_live_ros"
sys.path.insert(0, str(PACKAGE))
