"""Counts the images that teachers are asked about, in every Python process that has this folder on its path.

Goes in: `PYTHONPATH` with this folder, which Ray's workers inherit, and `FORWARDS_FILE`. Comes out: a line in
that file for every forward pass of a frozen network: the process, how many images, and whether it was asked
for the sample that a process compares with a file. Python imports a module of this name when it starts;
nothing else is imported before a teacher is.
"""

import importlib.abc
import importlib.util
import os
import sys

WATCHED = "kdsearch.teacher_model"
SAMPLING = "_agrees"  # the function of kdsearch.output_cache that compares


class Watch(importlib.abc.MetaPathFinder):
    """Puts a hook into every network that is frozen, once the module that does so is imported."""

    def find_spec(self, name, path, target=None):
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_hook(module):
            execute(module)
            hook(module.Frozen)

        spec.loader.exec_module = execute_and_hook
        return spec


def hook(frozen):
    """Count the passes of every `Frozen` to come, by the first layer of its network that has weights."""
    initialise = frozen.__init__

    def counted(self, model):
        initialise(self, model)
        layers = (part for part in model.modules() if not list(part.children()))
        first = next(part for part in layers if list(part.parameters()))
        if not getattr(first, "is_counted", False):  # an ensemble freezes its leading member once more
            first.is_counted = True
            first.register_forward_pre_hook(count)

    frozen.__init__ = counted


def count(module, args):
    kind = "sample" if any(frame.f_code.co_name == SAMPLING for frame in frames()) else "forward"
    line = f"{os.getpid()} {len(args[0])} {kind}\n"
    with open(os.environ["FORWARDS_FILE"], "a") as file:
        file.write(line)


def frames():
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


if "FORWARDS_FILE" in os.environ:
    sys.meta_path.insert(0, Watch())
