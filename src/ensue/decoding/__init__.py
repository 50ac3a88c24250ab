"""From logits to tokens: the decoder's contract and the one engine. Knows token ids, no text."""
