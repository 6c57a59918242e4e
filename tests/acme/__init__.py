"""One row of each table as another package adds it; tests/test_recipes.py installs a copy of this directory as `acme`."""
