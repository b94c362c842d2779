"""`dmd-live --doctor`: whether this machine is ready, and what mends it."""
