"""What is loaded: bundles, and pretrained models of others."""
