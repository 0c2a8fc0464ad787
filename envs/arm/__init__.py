"""The arm: a gripper over a table, with cubes and a drawer. Its tasks are files in `configs/env/`.

Lengths are in metres. The origin is in the middle of the table top, with +x to the right, +y away from the front
camera, and +z up. Shapes: `A` action, `N` simulator state, `S` action sequences, `T` control steps, `...` any leading
dimensions.
"""
