"""DMD Live."""
