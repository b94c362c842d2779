"""Reading labelled corpora and composing utterances with text, audio and vision from them."""
