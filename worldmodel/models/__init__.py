"""World models, one folder for each family."""
