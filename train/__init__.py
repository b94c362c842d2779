"""Training of the DMD model (torch); run from the checkout, never installed."""

import os

# OpenMP's threads spin while they wait: with one other busy process on a small machine, a training
# step takes ten times as long. Must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
