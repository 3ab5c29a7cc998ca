"""The shapes that travel, strict and bounded, and the signed bytes of a request. Pure."""
