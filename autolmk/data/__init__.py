"""From raw images to training batches: preprocessed cases on disk, folds, and the windows drawn from them."""
