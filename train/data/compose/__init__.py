"""Utterances with text, audio and vision, composed across corpora by label.

No corpus at hand has the words, voice and face of one moment, so a composed utterance takes each
from a different person who shows the same emotion. It teaches fusion, and is always called
composed. Every utterance depends on (seed, epoch, index) alone, so an interrupted run sees the same
ones.
"""

from .composer import Composer

__all__ = ["Composer"]
