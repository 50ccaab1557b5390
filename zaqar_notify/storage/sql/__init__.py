"""The storage on SQL databases, by SQLAlchemy Core."""
