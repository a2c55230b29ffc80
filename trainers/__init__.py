"""One file a method: network, codec, loss. Imported as `autolmk.trainers`, never as `trainers`."""

if __name__ != "autolmk.trainers":
    raise ImportError("import autolmk.trainers, not trainers: otherwise the same code is loaded twice")
