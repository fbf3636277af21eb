"""The gate at work: a face that still matches its original is blacked out."""

from __future__ import annotations

from deidcli.pipeline.stages import FaceAtWork, Stages, Work


def pass_gate(pairs: list[tuple[Work, FaceAtWork]], stages: Stages) -> None:
    """Black out each face that still matches its original in the published frame."""
    originals = [face.original for _, face in pairs if face.original is not None]
    published = [stages.gate.cut(work.frame, face.unit) for work, face in pairs]
    distances = stages.gate.distances(originals, published)
    for (work, face), distance in zip(pairs, distances, strict=True):
        face.distance = round(float(distance), 4)
        if not stages.gate.holds(face.distance) and not stages.method_is_blank:
            stages.black_out(work.frame, face.unit)
            face.method, work.status = "blackout", "fallback"
