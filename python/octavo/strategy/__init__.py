"""What is done with models: data, metrics, calibration, quantization, before and after.

Its public names are octavo's; `HOMES` says which module each comes from. They are imported when they
are asked for: `import octavo` is quick for those who have matrices.
"""

# Some modules are called as the function in them: there `octavo.evaluate` is the function, and
# `octavo.strategy.evaluate` the module.
HOMES = {
    "Dataset": "dataset",
    "Metric": "metrics",
    "evaluate": "evaluate",
    "Statistics": "statistics",
    "calibrate": "calibrate",
    "compare": "compare",
    "explain": "explain",
    "quantize_model": "ptq",
}
