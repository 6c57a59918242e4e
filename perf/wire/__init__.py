"""Request bytes ↔ answer bytes, one file a protocol, behind the Target seam."""
