"""Photo World: a real encoder on photographs. ``python -m training.photo_world.real`` does all; nothing is shipped."""
