"""What a device can compute from words, sound and pictures; training uses these very functions."""
