"""What stands around the routes: settings, guards, streams, the log. Never imports MLX."""
