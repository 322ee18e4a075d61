"""What is loaded and who is served."""
