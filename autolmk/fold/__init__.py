"""The files that a trained fold leaves on disk: checkpoints, measured numbers, the log and its held-out detections."""
