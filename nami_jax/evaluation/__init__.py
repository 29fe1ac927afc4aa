"""How good a model's pictures are: features, distances, judges, and the report."""
