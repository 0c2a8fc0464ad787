"""Imports other people's data sets into a trajectory store, and exports stores for other programs.

Every format is one file with a `Source`, and `registry` lists them. `source` defines how a data set is read, `mapping`
chooses the role of each column, and `importing` writes the result with the store's own writer.
"""
