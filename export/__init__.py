"""From a checkpoint to a bundle that a device runs, with what that cost; run from the checkout."""
