"""The real servers that tests use, one module for each: ``shared()`` is the one that a test process starts at its first use and
keeps to its end; tests that break a server start one of their own."""
