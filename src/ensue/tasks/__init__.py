"""What is learnt: how a batch is made, what its loss is, and how the result is scored."""
