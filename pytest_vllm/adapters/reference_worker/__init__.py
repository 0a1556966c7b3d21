"""A program for another interpreter: it reads a model with transformers and answers questions."""
