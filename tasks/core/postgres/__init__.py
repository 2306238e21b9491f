"""Access to PostgreSQL: sessions, client programs, their messages, and their archives."""
