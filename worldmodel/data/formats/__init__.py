"""Recordings of other people's: reading them into a trajectory store, and giving ours to other programs.

Every format is one file with a `Source`; `registry` names them. What a source holds is told by `source`, which of its
columns become what by `mapping`, and `importing` writes them through the store's own writer.
"""
