"""Parts that two or more models use. Imports torch only."""
