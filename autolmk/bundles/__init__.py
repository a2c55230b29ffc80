"""Trained models that travel: bundles written, verified and installed, their model cards, a lab's list of them, and how
to cite them. How a model is trained or predicts does not belong here."""
