"""What every command shares: its flags, `--help`, `--version`, the config by name or path, and progress bars."""
