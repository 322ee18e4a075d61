"""The steps from pictures to a page, as functions, and the typed sections of the recipes that they take.

Each step is one function with the settings of one section: ``extract``, ``train``, ``score`` and ``steer``,
``make_pack``, ``train_bottleneck``, ``evaluate``. Commands of ``cbsae`` and scripts call these; ``explain`` does all.
"""
