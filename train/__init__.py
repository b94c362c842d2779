"""Training of the DMD model (torch); run from the checkout, never installed."""

import os

# OpenMP's threads spin while they wait, by default for so long that one other busy process makes
# a training step several times slower. Measured on two cores: 1000 turns cost 8 % when alone, and
# save 40 % beside a busy process. Must be set before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
