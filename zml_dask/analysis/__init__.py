"""What is in a dataset: its counts, and the report of them."""
