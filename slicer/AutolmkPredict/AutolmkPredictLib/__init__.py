"""What the module does, without Qt and without Slicer: standard library of Python 3.9 alone."""
