"""Images as a kind of data: networks between pixels and tokens, and the image recipes of every method."""
