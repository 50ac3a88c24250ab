"""Many processes: who we are, and how a model is spread. No model file knows of it."""
