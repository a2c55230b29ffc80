"""The parts of a method: the Trainer that it fills, losses, and how a user's own class is found and kept."""
