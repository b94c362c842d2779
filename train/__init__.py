"""Training of the DMD model (torch); run from the checkout, never installed."""
