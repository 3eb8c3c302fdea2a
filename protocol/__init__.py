"""Parts in, JSON out: the wire formats. Knows neither MLX nor FastAPI."""
