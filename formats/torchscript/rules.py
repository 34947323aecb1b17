"""What no honest TorchScript exporter does, one id each. Data only; ids are stable and never reused."""

from __future__ import annotations

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    "WIPER-TS-001": "Bytes stand before, between or after the members of the archive.",
    "WIPER-TS-002": "The archive carries a comment, spans disks, or has more than one directory.",
    "WIPER-TS-003": "A member's own header contradicts the directory.",
    "WIPER-TS-004": "Two members have the same name, capitals aside; loaders disagree on which one counts.",
    "WIPER-TS-005": "A member's name is not a plain relative path in the archive's one folder.",
    "WIPER-TS-006": "A member is encrypted or compressed by a method other than deflate.",
    "WIPER-TS-007": "A member's content does not have the checksum that the directory gives.",
    "WIPER-TS-008": "A member unpacks to more than the limits allow.",
    "WIPER-TS-009": "The archive holds a member that the format does not know.",
    "WIPER-TS-010": "A pickle holds an instruction that the format does not use, or is malformed.",
    "WIPER-TS-011": "A pickle names a function or class that the format does not use.",
    "WIPER-TS-012": "A tensor's record is missing, or not as long as its element count says.",
    "WIPER-TS-013": "A tensor reaches outside its record.",
    "WIPER-TS-014": "The code defines __setstate__ or __getstate__, which run during loading.",
    "WIPER-TS-015": "A record belongs to no tensor.",
    "WIPER-TS-016": "Tensors that share a record disagree on its type or length.",
}
