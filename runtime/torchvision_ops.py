"""The one place that lets a CUDA-built torchvision be imported beside a CPU-only torch, in every process of an environment.

Where only the CPU build of torch is on offer, pip still takes torchvision from the package index, and that wheel is linked
to CUDA. Its compiled part cannot load, so the operators `nms` and `qnms` are never registered, `import torchvision` stops
with "operator torchvision::nms does not exist", and every import that touches a transformers processor stops with it.
Nothing here calls these operators; resizing and normalising are plain torch. Declaring their schemas is all it takes.

    python -m runtime.torchvision_ops             # called by `make setup`: cover every process of this environment
    python -m runtime.torchvision_ops --remove    # undo that

The first line copies this file into site-packages, next to a .pth file of one line that calls `ensure` whenever Python
starts: servers, torchrun ranks, data loader workers and notebooks included. It is a copy because a .pth file may be read
before the one that makes an editable install importable. Importing `models` calls `ensure` too, for an environment that
was made without `make setup`. It costs one comparison per import; torch is not imported before torchvision is.
Where the compiled part loads (a CUDA machine), or torchvision is missing, nothing is declared.
"""

import sys

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
COPY = "undertone_torchvision"
_libraries = []  # kept alive: dropping a torch Library withdraws its operators


class _BeforeMetaRegistrations:
    """A meta path finder that finds nothing: it acts when torchvision is about to attach to its operators.

    torchvision has tried to load its compiled part by then, so what is missing is known and need not be guessed.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision._meta_registrations":
            _declare_missing()


def _declare_missing() -> None:
    import torch

    missing = [schema for name, schema in SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _libraries.append(library)


def ensure() -> None:
    """Let torchvision be imported in this process, now or later. Safe to call again, and after a failed import."""
    if not any(isinstance(finder, _BeforeMetaRegistrations) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeMetaRegistrations())


def main(arguments: list[str]) -> None:
    """Write, or with `--remove` delete, the copy and the .pth file in the site-packages of the running interpreter."""
    import sysconfig
    from pathlib import Path

    if arguments not in ([], ["--remove"]):
        raise SystemExit(f"unknown arguments {arguments}; usage: python -m runtime.torchvision_ops [--remove]")
    site = Path(sysconfig.get_path("purelib"))
    files = {
        f"{COPY}.py": Path(__file__).read_text(encoding="utf-8"),
        f"{COPY}.pth": f"import {COPY}; {COPY}.ensure()\n",
    }
    for name, text in files.items():
        if arguments:
            (site / name).unlink(missing_ok=True)
        else:
            (site / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
