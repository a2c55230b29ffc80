"""Trainers: one file a method, its network, codec and loss. Imported as autolmk.trainers."""

if __name__ != "autolmk.trainers":
    raise ImportError("import autolmk.trainers, not trainers: under two names the code would be loaded twice")
