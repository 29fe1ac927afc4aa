"""What a run will take of hardware that need not be there yet: memory, communication, time and money."""
