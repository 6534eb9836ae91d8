"""The page at `/`: plain HTML, CSS and ES modules, served as they are; `elman.api.playground` serves them."""
