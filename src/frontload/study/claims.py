"""Which claims were written before there was anything to look at.

The contrasts of a study are noted in `claims.json` until its first stage is finished; after that
the note is never changed. A contrast that is added or altered later is still measured, and the
report says that it came after the results.
"""

from __future__ import annotations

import datetime

from frontload.study.artifacts import Layout
from frontload.study.identity import digest, read_json, write_json

FILE = "claims.json"


def note_claims(layout: Layout) -> None:
    """Note the contrasts, unless a stage is finished already."""
    path = layout.run / FILE
    if any(layout.artifacts[name].done for name in layout.plan.nodes):
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    contrasts = [contrast.model_dump(mode="json") for contrast in layout.spec.contrasts]
    write_json(path, {"noted": now, "contrasts": contrasts})


def written_late(layout: Layout) -> tuple[str, ...]:
    """Names of the contrasts that were not noted, word for word, before the first result."""
    path = layout.run / FILE
    noted = read_json(path)["contrasts"] if path.is_file() else []
    known = {digest(contrast) for contrast in noted}
    return tuple(
        contrast.name
        for contrast in layout.spec.contrasts
        if digest(contrast.model_dump(mode="json")) not in known
    )
