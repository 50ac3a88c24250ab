"""ensue: what comes next. Train the models of one lecture on your own text, and run them."""

__version__ = "0.1.0"
