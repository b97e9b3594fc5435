"""Search and reasoning: what a world or a puzzle asks for, found by trying."""
