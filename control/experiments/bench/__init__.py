"""Training speed beside other libraries."""
