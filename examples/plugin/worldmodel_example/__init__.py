"""The plug-in that `pip install ./examples/plugin` adds. Modules are imported in `add`, when they are needed."""


def add() -> None:
    """Register everything. It is called once, before a command looks up names."""
    from worldmodel.core.registry import register
    from worldmodel_example import encoder, environment, planner

    register("env", "cart", environment.FAMILY)
    register("optimiser", "averaging", planner.ENTRY)
    register("encoder", "colours", encoder.KIND)
