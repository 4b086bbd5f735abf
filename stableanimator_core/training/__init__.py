"""Training recipes. Each trains one part with the project's own modules; `mini` strings them together."""
