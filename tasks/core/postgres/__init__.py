"""PostgreSQL as it is reached: sessions, client programs, their messages, and the lists of their archives."""
