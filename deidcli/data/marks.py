"""A mark in each published picture that says how it was made, and nothing else.

One fixed XMP packet with IPTC's DigitalSourceType; it depends on the method alone. BMP and GIF
have no place for one that readers know.
"""

from __future__ import annotations

from typing import Literal

SourceType = Literal["compositeWithTrainedAlgorithmicMedia", "composite", "algorithmicallyEnhanced"]
"""Terms of http://cv.iptc.org/newscodes/digitalsourcetype/: faces drawn by a trained model; a mix
of several pictures; altered by an algorithm that is no generative model."""

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/{}"
    "</Iptc4xmpExt:DigitalSourceType>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


def packet(term: SourceType) -> str:
    """The XMP packet of a term."""
    return _PACKET.format(term)
