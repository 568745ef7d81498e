"""A user's own thermograms: read, predicted by trained models, measured by region."""
