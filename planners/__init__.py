"""Planners: one file a method, what it derives from the fingerprint. Imported as autolmk.planners."""

if __name__ != "autolmk.planners":
    raise ImportError("import autolmk.planners, not planners: under two names the code would be loaded twice")
