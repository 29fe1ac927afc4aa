"""What every page served to a browser shares: an address to listen on, an orderly end, security headers."""
