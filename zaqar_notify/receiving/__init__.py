"""What mail servers hand over: bounces, other reports of what became of a mail, and mails that unsubscribe."""
