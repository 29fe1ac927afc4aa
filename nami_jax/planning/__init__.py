"""What a run will need on hardware that need not be present: memory, communication, time and money."""
