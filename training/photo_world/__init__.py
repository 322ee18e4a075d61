"""Photo World: a real encoder on photographs. ``python -m training.photo_world`` does all; nothing of it is shipped."""
