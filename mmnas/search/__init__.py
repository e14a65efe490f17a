"""The search (paper section 3.4): supernet, architecture parameters, searcher, history, pictures."""
