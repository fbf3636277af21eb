"""Does the name of a column say that it identifies a person, or holds an embedding?"""

from __future__ import annotations

import re

IDENTITY_COLUMNS = frozenset(
    {"identity", "identity_id", "identities", "person", "person_id", "person_name", "people"}
    | {"subject", "subject_id", "celeb", "celeb_id", "celebrity", "celebrity_name", "name", "names"}
    | {"full_name", "first_name", "last_name", "face_id", "individual", "who", "ssn", "patient_id"}
    | {"patient", "patient_name", "email", "phone", "date_of_birth", "dob", "uid", "user_id"}
    | {"subjectid", "personid", "patientid", "userid", "faceid", "celebid", "mrn", "user"}
)
"""Columns that identify a person; compared in lower case, with `-` and space as `_`."""

_DESCRIPTOR = re.compile(
    r"embedding|encoding|descriptor|faceprint|arcface|facenet|(^|_)(emb|feat)(s|_|$)", re.I
)
_IDENTITY_WORDS = frozenset(
    {"identity", "person", "subject", "celeb", "celebrity", "surname", "lastname", "firstname"}
    | {"fullname", "username", "patient", "individual", "nickname", "forename", "actor", "actress"}
)


def is_identity_column(name: str) -> bool:
    """Return whether a column's name suggests that it identifies a person."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    plain = re.sub(r"[\s.-]+", "_", apart).lower()
    return plain in IDENTITY_COLUMNS or not _IDENTITY_WORDS.isdisjoint(plain.split("_"))


def is_descriptor_column(name: str) -> bool:
    """Return whether a column's name suggests that it contains a face embedding."""
    return bool(_DESCRIPTOR.search(name))
