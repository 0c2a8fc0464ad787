"""What every room shares: errors, specifications, seeds, files. Imports nothing else of this project."""
