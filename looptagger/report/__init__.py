"""What an output holds, as a page that people look at."""
