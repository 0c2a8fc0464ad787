"""What all packages share: errors, specifications, seeds, files. It imports nothing else of this project."""
