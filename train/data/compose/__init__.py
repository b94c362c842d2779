"""Utterances with text, audio and vision, composed across corpora by label.

No corpus at hand has words, voice and face of one moment; a composed utterance takes each from a
different person who shows the same emotion. It teaches fusion, and is called what it is. Every
utterance is a function of (seed, epoch, index) alone, so that an interrupted run sees the same.
"""

from .composer import Composer

__all__ = ["Composer"]
