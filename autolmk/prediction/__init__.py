"""Prediction: windows to candidates to landmarks (`chain`), and whole folders of images (`folder`)."""
