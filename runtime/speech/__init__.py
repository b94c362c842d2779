"""Finding speech (voice activity) and turning it into words."""
