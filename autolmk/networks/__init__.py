"""Networks on dynamic_network_architectures' building blocks."""
