"""What `pip install ./examples/plugin` adds. Modules are imported here, since nothing needs them before."""


def add() -> None:
    """Called once, before a command looks for names."""
    from worldmodel.core.registry import register
    from worldmodel_example import encoder, environment, planner

    register("env", "cart", environment.FAMILY)
    register("optimiser", "mppi", planner.ENTRY)
    register("encoder", "colours", encoder.KIND)
