"""The REST API: Falcon resources, one file per noun."""
