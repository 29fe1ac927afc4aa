"""How good a model is: features of pictures, metrics between sets of them, reports."""
