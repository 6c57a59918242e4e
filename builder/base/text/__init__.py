"""Values → what people see, on a terminal or in a page."""
