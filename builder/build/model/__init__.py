"""One model of the spec → its artifact, its variants' and engines', judged; each from the cache where it is there."""
