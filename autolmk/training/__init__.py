"""Training: the loop that runs every method, its state, its schedule and its end. Start reading at `fit`."""
