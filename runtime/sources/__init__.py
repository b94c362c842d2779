"""Where sound and pictures come from: files, cameras, microphones."""
