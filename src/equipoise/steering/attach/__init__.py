"""What happens while a steering is attached: its hooks, and what they must know of each pass."""
