"""kdsearch: searches students and distillation recipes for the accuracy/size Pareto front."""

__version__ = "0.1.0"
