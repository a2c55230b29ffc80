"""Files written whole or not at all, locked while in use, and read within bounds: no format of images or landmarks."""
