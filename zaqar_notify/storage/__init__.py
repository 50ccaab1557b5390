"""Where messages, subscriptions, the outbox and the log live."""
