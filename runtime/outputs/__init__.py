"""Where events go: terminal, window, recording, sinks of your own."""
