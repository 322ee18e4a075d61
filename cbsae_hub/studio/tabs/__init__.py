"""The page's tabs, a file for each."""
