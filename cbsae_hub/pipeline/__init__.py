"""The way from pictures to a page of named neurons, step by step or in one."""
