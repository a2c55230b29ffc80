"""The arrangement of landmarks relative to each other: poses, mean shapes, shared slices, rows. Points only,
no images.
"""
