"""Tokenizer, vocabulary and word vectors: from a string to ids and 300-d vectors (paper section 4.1)."""
