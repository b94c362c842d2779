"""From an utterance's evidence to an event: the model's answer, calibrated, with its doubts."""
