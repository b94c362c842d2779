"""From a stream of sound and pictures to utterances and the evidence of each."""
