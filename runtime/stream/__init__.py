"""The parts of `EmotionStream`: its options, what it opens, its thread, its events."""
