"""Models side by side under a protocol: what `python -m train.compare` is made of."""
