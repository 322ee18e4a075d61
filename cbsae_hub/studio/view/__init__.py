"""What the page looks like: HTML, style, pictures and the scripts in static/."""
