"""The way from raw images to training batches: preprocessed cases on disk, folds, and windows drawn from them."""
