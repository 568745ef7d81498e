"""Reads a user's own thermograms, predicts them with trained models, and measures regions."""
