"""The look of the page: templates/, style, images and the scripts in static/."""
