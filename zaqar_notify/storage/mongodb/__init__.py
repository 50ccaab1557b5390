"""The storage on MongoDB."""
