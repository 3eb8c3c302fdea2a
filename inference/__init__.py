"""Tokens in, tokens out: the only room that knows MLX, and that knows no HTTP."""
