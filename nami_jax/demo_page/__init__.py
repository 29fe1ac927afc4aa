"""The demo in a browser: its form, what draws for it, and the page."""
