"""The DMD model, part by part."""
