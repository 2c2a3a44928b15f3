"""Speed of generation, log-probs and training beside other libraries."""
