"""Captions and prompts to the states that the network attends to."""
