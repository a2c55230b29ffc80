"""Prediction: windows to candidates to landmarks (`inference`), and whole folders of images (`run`)."""
