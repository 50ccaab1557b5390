"""One module for each revision, named by a number that rises."""
