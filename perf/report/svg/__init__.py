"""Numbers → small inline SVG charts; pure."""
