"""Lay out sets that may not be redistributed as the project wants them: python .ci/licensed_data.py FROM TO

LISA and the sticker masks are linked.  Of SVHN only test digits are at hand: they are cut in two where
neighbouring digits come from different photographs.
"""

import sys
from pathlib import Path

import numpy as np

CUT = 7499

source, folder = (Path(argument).resolve() for argument in sys.argv[1:])
for name in ("lisa_train.npz", "lisa_test.npz", "rp2_masks.npz"):
    (folder / name).symlink_to(source / name)
digits = np.load(source / "svhn_test10k.npz")
photo = digits["photo"]
assert photo[CUT - 1] != photo[CUT]
for name, part in (("train", slice(None, CUT)), ("test", slice(CUT, None))):
    np.savez(folder / f"svhn_{name}.npz", images=digits["images"][part], labels=digits["labels"][part])
