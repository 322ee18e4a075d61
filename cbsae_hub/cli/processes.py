"""The log of the steps of a recipe, on one process or many."""

import logging


def speaks() -> bool:
    """Starts the log; returns whether this is the process that speaks, one of those that Accelerate has started."""
    from cbsae_hub.processes import is_main_process

    main = is_main_process()
    logging.basicConfig(level=logging.INFO if main else logging.ERROR, format="%(message)s")
    return main
