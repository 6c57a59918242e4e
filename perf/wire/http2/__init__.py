"""HTTP/2 as far as a gRPC client needs it: frames, header blocks, streams, one connection."""
