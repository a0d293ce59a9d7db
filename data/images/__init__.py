"""Images: how files become arrays of bytes, whatever their layout on disk (the data sets are in datasets/)."""
