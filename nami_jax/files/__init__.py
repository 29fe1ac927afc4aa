"""Files and file systems: what holds for them whatever is written."""
