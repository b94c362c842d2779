"""Every error that dmd_live raises on purpose.

A message says what is wrong, where, and what to do; the command line prints it as one line and
exits with code 2.
"""

__all__ = [
    "BundleError",
    "DmdLiveError",
    "EngineError",
    "FeatureError",
    "IsolationError",
    "ModelError",
    "SourceError",
    "SpeechError",
    "UsageError",
]


class DmdLiveError(Exception):
    """Base of all errors below: catch this one to catch them all."""


class UsageError(DmdLiveError):
    """The options given contradict each other or name something that does not exist."""


class SourceError(DmdLiveError):
    """A file, camera or microphone cannot be opened or read."""


class ModelError(DmdLiveError):
    """A pretrained part is missing, or its content is not what its hash promises."""


class BundleError(DmdLiveError):
    """A bundle is incomplete, altered, or made for another feature contract."""


class EngineError(DmdLiveError):
    """An inference engine cannot be opened, or computes wrong."""


class FeatureError(DmdLiveError):
    """An array handed to feature extraction or to an engine has a wrong shape or content."""


class IsolationError(DmdLiveError):
    """Work in a process of its own hung or crashed."""


class SpeechError(DmdLiveError):
    """A speech recogniser cannot be started or failed while transcribing."""
